"""Deleting a run, a dataset or the tenant, and /v1/deletions: how far that is."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api.auditing import AuthorDep
from services.api.deletions.presenting import deletion_shape
from services.api.deletions.shapes import Deletion
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import DatasetId, DeletionId, RunId, Text
from services.domain.errors import NotFoundError, StillNeededError
from services.domain.ids import is_id
from services.store import audit, deletions

router = APIRouter(prefix="/v1", tags=["deletions"], route_class=TenantRoute)

TenantName = Annotated[
    Text, Query(min_length=1, max_length=200, description="The tenant's name, to confirm it.")
]


@router.delete(
    "/runs/{run_id}",
    status_code=202,
    openapi_extra=needs("runs:write", NotFoundError, StillNeededError),
)
def delete_run(
    run_id: RunId, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> Deletion:
    """The run is gone at once, and its data soon: 202. Repeating it is harmless.

    409 ``still_needed`` where it is not over, or another that is not over starts from it.
    """
    if not is_id(run_id, "run"):
        raise NotFoundError("run", run_id)
    with service.database.transaction(tenant_id) as conn:
        deletion, is_new = deletions.delete_run(conn, tenant_id, run_id)
        if is_new:
            audit.record(conn, tenant_id, author, "run.deletion_requested", run_id)
    return deletion_shape(deletion)


@router.delete(
    "/datasets/{dataset_id}",
    status_code=202,
    openapi_extra=needs("datasets:write", NotFoundError, StillNeededError),
)
def delete_dataset(
    dataset_id: DatasetId, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> Deletion:
    """The dataset is gone at once, and its files and what was cached of them soon: 202.

    409 ``still_needed`` where a run needs it that is not over. Repeating it is harmless.
    """
    if not is_id(dataset_id, "ds"):
        raise NotFoundError("dataset", dataset_id)
    with service.database.transaction(tenant_id) as conn:
        deletion, is_new = deletions.delete_dataset(conn, tenant_id, dataset_id)
        if is_new:
            audit.record(conn, tenant_id, author, "dataset.deletion_requested", dataset_id)
    return deletion_shape(deletion)


@router.delete("/tenant", status_code=202, openapi_extra=needs("tenant:write", NotFoundError))
def delete_tenant(
    name: TenantName, service: ServiceDep, tenant_id: TenantDep, author: AuthorDep
) -> Deletion:
    """Everything of the tenant goes: 202. 422 ``not_confirmed`` where the name is another one.

    All its API keys stop with this answer, so only the operator of the service can read the
    report, by the ``id`` in this answer.
    """
    with service.database.transaction(tenant_id) as conn:
        deletion, is_new = deletions.delete_tenant(conn, tenant_id, name=name)
        if is_new:
            audit.record(conn, tenant_id, author, "tenant.deletion_requested", tenant_id)
    return deletion_shape(deletion)


@router.get("/deletions/{deletion_id}", openapi_extra=needs("runs:read", NotFoundError))
def get_deletion(deletion_id: DeletionId, service: ServiceDep, tenant_id: TenantDep) -> Deletion:
    """How far it is, and the report. 404 where there is none, or it is another tenant's."""
    if not is_id(deletion_id, "del"):
        raise NotFoundError("deletion", deletion_id)
    with service.database.transaction(tenant_id) as conn:
        return deletion_shape(deletions.get(conn, deletion_id, tenant_id=tenant_id))
