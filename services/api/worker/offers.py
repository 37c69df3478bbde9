"""/v1/worker: who the worker is, its heartbeat, and the run that it is offered."""

import asyncio
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from services.api.routing import WaitingWorkerRoute, WorkerRoute
from services.api.scopes import WORKER_PATH, needs_worker
from services.api.service import Service, ServiceDep, WorkerDep
from services.api.worker.shapes import HeartbeatRequest, Identity, Offered
from services.domain.access import RemoteWorker
from services.domain.ledger import Worker
from services.domain.worker_protocol import WORKER_PROTOCOL
from services.store import worker_runs
from services.store.worker_runs import OfferedRun

router = APIRouter(prefix=WORKER_PATH, route_class=WorkerRoute, include_in_schema=False)
waiting = APIRouter(prefix=WORKER_PATH, route_class=WaitingWorkerRoute, include_in_schema=False)

_LOOK_EVERY_S: Final = 1.0
_LONGEST_WAIT_S: Final = 25.0


@router.get("", openapi_extra=needs_worker())
def get_identity(service: ServiceDep, worker: WorkerDep) -> Identity:
    """What this worker is; asked once, when it starts."""
    settings = service.settings
    return Identity(
        worker_id=worker.worker_id,
        gpu_class=worker.gpu_class,
        node=worker.node,
        protocol=WORKER_PROTOCOL,
        version=version("reverie"),
        now=datetime.now(UTC),
        lease_s=settings.lease_s,
        renew_s=settings.renew_s,
        orphan_s=settings.orphan_s,
        cancel_s=settings.cancel_s,
        heartbeat_s=settings.heartbeat_s,
    )


@router.put("", status_code=204, response_class=Response, openapi_extra=needs_worker())
def register(body: HeartbeatRequest, service: ServiceDep, worker: WorkerDep) -> None:
    """A heartbeat. Which run the worker holds is read, not believed."""
    with service.worker_database.transaction() as conn:
        run_id = worker_runs.held_run(conn, worker.worker_id)
    reason = body.drain_reason
    service.ledger.register(
        Worker(
            worker_id=worker.worker_id,
            kind="trainer",
            gpu_class=worker.gpu_class,
            version=body.version,
            node=worker.node,
        ),
        draining=body.draining,
        run_id=run_id,
        drain_reason=None if reason is None else reason.value(),
    )


@waiting.get("/offer", openapi_extra=needs_worker())
async def wait_for_offer(
    service: ServiceDep,
    worker: WorkerDep,
    wait_s: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S)] = 0,
) -> Offered:
    """The run that is offered to this worker; waits for one up to ``wait_s``."""
    until_s = time.monotonic() + wait_s
    while True:
        async with service.places.workers.one_for(worker.key_id):
            offered = await run_in_threadpool(_look, service, worker)
        if offered is not None:
            return Offered(run_id=offered.run_id, traceparent=offered.traceparent)
        left_s = until_s - time.monotonic()
        if left_s <= 0 or service.events.is_closing:
            return Offered(run_id=None, traceparent=None)
        await asyncio.sleep(min(_LOOK_EVERY_S, left_s))


def _look(service: Service, worker: RemoteWorker) -> OfferedRun | None:
    with service.worker_database.transaction() as conn:
        return worker_runs.offered_to(conn, worker.worker_id)
