"""Keys of remote workers; these calls need an operator's key."""

from services.client.call import Call, delete, get, page, part, post
from services.client.operator_shapes import NewWorkerKey, WorkerKey, WorkerKeyRequest
from services.client.shapes import Page

_PATH = "/v1/admin/worker-keys"


def list_worker_keys(*, limit: int = 20, after: str | None = None) -> Call[Page[WorkerKey]]:
    """Newest first, without those that were revoked."""
    return page(_PATH, {"limit": limit, "after": after})


def create_worker_key(request: WorkerKeyRequest) -> Call[NewWorkerKey]:
    """A new key for one `reverie worker --join`."""
    return post(_PATH, request)


def get_worker_key(worker_key_id: str) -> Call[WorkerKey]:
    """Which worker it is, and when it was last used."""
    return get(f"{_PATH}/{part(worker_key_id)}")


def revoke_worker_key(worker_key_id: str) -> Call[None]:
    """The key stops working at once, and its worker stops."""
    return delete(f"{_PATH}/{part(worker_key_id)}")
