"""Deleting runs, datasets and the tenant, and how far that is."""

from services.client.call import Call, delete_later, get, part
from services.client.tenant_shapes import Deletion


def delete_run(run_id: str) -> Call[Deletion]:
    """Delete a run that is over, with everything that it made."""
    return delete_later(f"/v1/runs/{part(run_id)}")


def delete_dataset(dataset_id: str) -> Call[Deletion]:
    """Delete a dataset that no open run needs, with what was cached of it."""
    return delete_later(f"/v1/datasets/{part(dataset_id)}")


def delete_tenant(name: str) -> Call[Deletion]:
    """Delete everything of the tenant; ``name`` confirms it. Its keys stop with the answer."""
    return delete_later("/v1/tenant", {"name": name})


def get_deletion(deletion_id: str) -> Call[Deletion]:
    """How far a deletion is, and its report."""
    return get(f"/v1/deletions/{part(deletion_id)}")
