"""/v1/worker/runs/{run_id}: one request for each method of ``services.domain.ledger.Ledger``.

They answer 409 ``lease_lost`` for every run that this worker does not hold, existing or not.
"""

import functools
from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Response
from pydantic import TypeAdapter

from services.api.routing import WorkerRoute
from services.api.scopes import WORKER_PATH, needs_worker
from services.api.service import Service, ServiceDep, WorkerDep
from services.api.worker.held import tenant_of_claim, tenant_of_held
from services.api.worker.shapes import (
    ClaimRequest,
    CommitRequest,
    EventsRequest,
    HandBackRequest,
    LogRequest,
    RebuildRequest,
    Rebuilt,
    RenewRequest,
)
from services.domain.errors import InvalidRequestError, Problem
from services.domain.ids import is_id
from services.domain.ledger import Claim, Outcome, Renewal, StoredCheckpoint
from services.objects.keys import checkpoint_prefix, result_prefix
from services.objects.shards import delete_shard
from services.store import worker_runs

router = APIRouter(
    prefix=f"{WORKER_PATH}/runs/{{run_id}}", route_class=WorkerRoute, include_in_schema=False
)

_CLAIM: Final = TypeAdapter(Claim | None)
_post_silent: Final = functools.partial(
    router.post, status_code=204, response_class=Response, openapi_extra=needs_worker()
)


@router.post(":claim", response_class=Response, openapi_extra=needs_worker())
def claim(run_id: str, body: ClaimRequest, service: ServiceDep, worker: WorkerDep) -> Response:
    """The claim, or null where the run is not offered to this worker, or cannot be claimed.

    The same request again gets the same claim, for as long as it lasts.
    """
    claimed = None
    if is_id(run_id, "run"):
        lease = _lease(service, body.lease_s)
        claimed = service.ledger.claim_offered(
            run_id, worker_id=worker.worker_id, lease=lease, claim_id=body.claim_id
        )
    # Not as a model: a data index may have megabytes, and would be validated once more.
    return Response(_CLAIM.dump_json(claimed), media_type="application/json")


@router.post(":renew", openapi_extra=needs_worker())
def renew(run_id: str, body: RenewRequest, service: ServiceDep, worker: WorkerDep) -> Renewal:
    """Extend the lease; the answer says what is requested of the holder."""
    tenant_of_claim(service, worker, run_id, body.fence)
    return service.ledger.renew(run_id, body.fence, lease=_lease(service, body.lease_s))


@_post_silent(":event")
def event(run_id: str, body: EventsRequest, service: ServiceDep, worker: WorkerDep) -> None:
    """Store events of the training process."""
    tenant_of_claim(service, worker, run_id, body.fence)
    service.ledger.event(run_id, body.fence, body.values())


@_post_silent(":log")
def log(run_id: str, body: LogRequest, service: ServiceDep, worker: WorkerDep) -> None:
    """Store a piece of what the training process printed."""
    tenant_of_claim(service, worker, run_id, body.fence)
    service.ledger.log(run_id, body.fence, body.value())


@_post_silent(":commit-checkpoint")
def commit_checkpoint(
    run_id: str, body: CommitRequest, service: ServiceDep, worker: WorkerDep
) -> None:
    """Record a stored checkpoint of this attempt."""
    tenant_id = tenant_of_claim(service, worker, run_id, body.fence)
    expected = checkpoint_prefix(tenant_id, run_id, body.fence, max(1, body.step))
    _check_prefix(body, expected)
    checkpoint = StoredCheckpoint(step=body.step, files=body.files.value())
    service.ledger.commit_checkpoint(run_id, body.fence, checkpoint)


@_post_silent(":commit-result")
def commit_result(run_id: str, body: CommitRequest, service: ServiceDep, worker: WorkerDep) -> None:
    """End the run with the stored result of this attempt."""
    tenant_id = tenant_of_claim(service, worker, run_id, body.fence)
    _check_prefix(body, result_prefix(tenant_id, run_id, body.fence))
    service.ledger.commit_result(run_id, body.fence, body.files.value(), step=body.step)


@router.post(":rebuild-shard", openapi_extra=needs_worker())
def rebuild_shard(
    run_id: str, body: RebuildRequest, service: ServiceDep, worker: WorkerDep
) -> Rebuilt:
    """Have a damaged shard of the held run built again; its stored files are deleted here."""
    tenant_id = tenant_of_held(service, worker, run_id, body.fence)
    shard = body.value()
    with service.worker_database.transaction() as conn:
        is_of_run = worker_runs.needs_shard(conn, tenant_id, run_id, shard.digest)
    is_first = is_of_run and service.ledger.rebuild_shard(run_id, body.fence, shard)
    if is_first:
        delete_shard(service.objects, tenant_id, shard)
    return Rebuilt(is_first=is_first)


@_post_silent(":hand-back")
def hand_back(run_id: str, body: HandBackRequest, service: ServiceDep, worker: WorkerDep) -> None:
    """End the attempt without a result."""
    tenant_of_claim(service, worker, run_id, body.fence)
    failure = None if body.failure is None else body.failure.value()
    service.ledger.hand_back(run_id, body.fence, Outcome(body.outcome), failure)


def _lease(service: Service, lease_s: float) -> timedelta:
    """As the worker asks, and no longer than the service's own."""
    return timedelta(seconds=min(lease_s, service.settings.lease_s))


def _check_prefix(body: CommitRequest, expected: str) -> None:
    """A row that named other files would open them to this worker, and to the tenant."""
    if body.files.key_prefix != expected:
        message = "This is not where the attempt stores it."
        problem = Problem(pointer="/files/key_prefix", code="not_of_attempt", message=message)
        raise InvalidRequestError([problem])
