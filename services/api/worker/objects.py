"""/v1/worker/runs/{run_id}: addresses of the files that the held run reads and writes."""

from typing import Final

from fastapi import APIRouter

from services.api.routing import WorkerRoute
from services.api.scopes import WORKER_PATH, needs_worker
from services.api.service import ServiceDep, WorkerDep
from services.api.worker.held import tenant_of_held
from services.api.worker.shapes import (
    Committed,
    ManifestRequest,
    ReadRequest,
    SignedUrl,
    WriteRequest,
)
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.objects.errors import InvalidKeyError
from services.objects.keys import MANIFEST_NAME, attempt_prefix, check_key, shard_of, shard_prefix
from services.store import worker_runs

router = APIRouter(
    prefix=f"{WORKER_PATH}/runs/{{run_id}}", route_class=WorkerRoute, include_in_schema=False
)

_EXPIRES_S: Final = 300
"""The request has to begin by then."""


@router.post(":sign-read", openapi_extra=needs_worker())
def sign_read(run_id: str, body: ReadRequest, service: ServiceDep, worker: WorkerDep) -> SignedUrl:
    """A GET of a shard, a checkpoint, or the adapter that the held run starts from; else 404."""
    tenant_id = tenant_of_held(service, worker, run_id, body.fence)
    _check_key(body.key)
    digest = shard_of(body.key)
    with service.worker_database.transaction() as conn:
        if digest is not None and body.key.startswith(shard_prefix(tenant_id, digest)):
            may_read = worker_runs.needs_shard(conn, tenant_id, run_id, digest)
        else:
            may_read = worker_runs.is_in_checkpoint(
                conn, tenant_id, run_id, body.key
            ) or worker_runs.starts_from(conn, tenant_id, run_id, body.key)
    if not may_read:
        raise NotFoundError("object", body.key)
    url = service.objects.sign_get(body.key, expires_s=_EXPIRES_S)
    return SignedUrl(method="GET", url=url, headers={})


@router.post(":sign-write", openapi_extra=needs_worker())
def sign_write(
    run_id: str, body: WriteRequest, service: ServiceDep, worker: WorkerDep
) -> SignedUrl:
    """A PUT of exactly this content, under the attempt's own prefix."""
    tenant_id = tenant_of_held(service, worker, run_id, body.fence)
    _check_own(body.key, attempt_prefix(tenant_id, run_id, body.fence))
    if body.key.endswith(f"/{MANIFEST_NAME}"):
        raise _refused("A manifest is committed, not uploaded.")
    signed = service.objects.sign_put(
        body.key, size_bytes=body.size_bytes, sha256=body.sha256, expires_s=_EXPIRES_S
    )
    return SignedUrl(method=signed.method, url=signed.url, headers=signed.headers)


@router.post(":commit-manifest", openapi_extra=needs_worker())
def commit_manifest(
    run_id: str, body: ManifestRequest, service: ServiceDep, worker: WorkerDep
) -> Committed:
    """Create the manifest of a folder of this attempt, unless there is one."""
    tenant_id = tenant_of_held(service, worker, run_id, body.fence)
    _check_own(body.key, attempt_prefix(tenant_id, run_id, body.fence))
    if not body.key.endswith(f"/{MANIFEST_NAME}"):
        raise _refused("This is not the key of a manifest.")
    return Committed(is_same=service.objects.commit_once(body.key, body.text.encode()))


def _check_own(key: str, prefix: str) -> None:
    _check_key(key)
    if not key.startswith(prefix):
        raise _refused("This is not below the attempt's own prefix.")


def _check_key(key: str) -> None:
    try:
        check_key(key)
    except InvalidKeyError:
        raise _refused("This is not the key of an object.") from None


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError([Problem(pointer="/key", code="bad_key", message=message)])
