"""/v1/admin/worker-keys: keys of machines that work over HTTPS only, made and revoked by operators.

They belong to no tenant, so the log of this process and their rows say who did it.
"""

from typing import Any

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from services.api.admin.shapes import NewWorkerKey, WorkerKey, WorkerKeyRequest
from services.api.idempotency import IdempotencyKey
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import OperatorDep, ServiceDep
from services.api.shapes import KeyId, in_utc, in_utc_or_none
from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import worker_keys
from services.store.worker_keys import WorkerKey as WorkerKeyRow

log = structlog.get_logger(__name__)

_PATH = f"{ADMIN}/worker-keys"

router = APIRouter(prefix=_PATH, tags=["operators"], route_class=OperatorRoute)


@router.get("", openapi_extra=needs_operator())
def list_worker_keys(
    service: ServiceDep, limit: Limit = 20, after: After[KeyId] = None
) -> Page[WorkerKey]:
    """Newest first, without those that were revoked."""
    cursor = check_cursor(after, "key")
    with service.unscoped.transaction() as conn:
        rows = worker_keys.list_page(conn, limit + 1, cursor)
    return page_of(rows, limit, lambda row: WorkerKey(**_facts(row)), lambda row: row.key_id)


@router.post("", status_code=201, response_model=NewWorkerKey, openapi_extra=needs_operator())
def create_worker_key(
    body: WorkerKeyRequest,
    service: ServiceDep,
    operator: OperatorDep,
    key: IdempotencyKey = None,
) -> JSONResponse:
    """A new key for one `reverie worker --join`: 201, and this once its ``secret``.

    One Idempotency-Key makes one key, however often it is sent.
    """
    with service.unscoped.transaction() as conn:
        row, secret = worker_keys.create(
            conn,
            service.key_pepper,
            name=body.name,
            gpu_class=body.gpu_class,
            node=body.node,
            expires_at=body.expires_at,
            created_by=operator.key_id,
            request_key=key,
        )
    headers = {"Location": f"{_PATH}/{row.key_id}"}
    if key is None:
        headers["Idempotency-Key-Missing"] = "true"
    elif secret is None:
        headers["Idempotent-Replayed"] = "true"
    if secret is not None:
        log.info("worker_key_created", worker_key_id=row.key_id, worker_id=row.worker_id)
    made = NewWorkerKey(**_facts(row), secret=secret)
    return JSONResponse(made.model_dump(mode="json"), 201, headers=headers)


@router.get("/{worker_key_id}", openapi_extra=needs_operator(NotFoundError))
def get_worker_key(worker_key_id: KeyId, service: ServiceDep) -> WorkerKey:
    """404 where there is none, or it was revoked."""
    _check_id(worker_key_id)
    with service.unscoped.transaction() as conn:
        return WorkerKey(**_facts(worker_keys.get(conn, worker_key_id)))


@router.delete(
    "/{worker_key_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=needs_operator(NotFoundError),
)
def revoke_worker_key(worker_key_id: KeyId, service: ServiceDep, operator: OperatorDep) -> None:
    """The key stops working at once; repeating it is harmless. Its run goes to another worker."""
    _check_id(worker_key_id)
    with service.unscoped.transaction() as conn:
        worker_keys.revoke(conn, worker_key_id, revoked_by=operator.key_id)
    log.info("worker_key_revoked", worker_key_id=worker_key_id)


def _check_id(key_id: str) -> None:
    if not is_id(key_id, "key"):
        raise NotFoundError("worker key", key_id)


def _facts(row: WorkerKeyRow) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "worker_id": row.worker_id,
        "gpu_class": row.gpu_class,
        "node": row.node,
        "created_by": row.created_by or None,
        "expires_at": in_utc_or_none(row.expires_at),
        "last_used_at": in_utc_or_none(row.last_used_at),
        "links": {"self": f"{_PATH}/{row.key_id}"},
        "created_at": in_utc(row.created_at),
    }
