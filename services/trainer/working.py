"""What every trainer process does, however runs reach it: heartbeat, health, one run at a time."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.domain.ledger import CachedShard, Ledger, Worker
from services.objects.port import AttemptObjects
from services.settings.env import Settings
from services.trainer.attempt import answer_ring
from services.trainer.context import TRAINING_PROGRAM, Assignment, TrainerContext
from services.trainer.lease import LeaseTimes
from services.workers.health import WorkerHealth
from services.workers.heartbeat import Heartbeat
from services.workers.scratch import Scratch

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The service as a trainer reaches it."""

    ledger: Ledger
    objects: AttemptObjects
    delete_shard: Callable[[str, CachedShard], None]
    """As in ``TrainerContext``."""


class ServeRuns(Protocol):
    """Calls ``answer`` with the id of each run that may be claimable, until asked to stop."""

    def __call__(
        self, answer: Callable[[str], None], *, stopping: threading.Event, drain: Callable[[], None]
    ) -> None:
        """``drain``: called at the stop signal; sets ``stopping``, and may run in its handler."""


def work(
    settings: Settings,
    worker: Worker,
    service: Service,
    serve_runs: ServeRuns,
    child_command: Sequence[str],
) -> None:
    """Train runs until the process is asked to stop."""
    stopping, assignment = threading.Event(), Assignment()
    with Scratch(settings.scratch_dir, worker.worker_id) as scratch:
        heartbeat = Heartbeat(
            service.ledger,
            worker,
            every_s=settings.heartbeat_s,
            is_draining=stopping.is_set,
            run_id=lambda: assignment.run_id,
            drain_reason=lambda: health.drain_reason,
        )
        health = WorkerHealth(
            scratch,
            service.objects,
            scratch_bytes=settings.scratch_bytes,
            models_dir=settings.models_dir,
            needs_gpu=settings.needs_gpu,
            program=TRAINING_PROGRAM,
            on_change=heartbeat.wake,
        )

        def drain() -> None:
            stopping.set()
            heartbeat.wake()

        context = _context(
            settings,
            worker_id=worker.worker_id,
            service=service,
            scratch=scratch,
            health=health,
            stopping=stopping,
            child_command=child_command,
        )
        with health, heartbeat:
            log.info("worker_up", worker_id=worker.worker_id, gpu_class=worker.gpu_class)
            serve_runs(
                lambda run_id: answer_ring(context, assignment, run_id),
                stopping=stopping,
                drain=drain,
            )


def _context(
    settings: Settings,
    *,
    worker_id: str,
    service: Service,
    scratch: Scratch,
    health: WorkerHealth,
    stopping: threading.Event,
    child_command: Sequence[str],
) -> TrainerContext:
    times = LeaseTimes(
        lease_s=settings.lease_s,
        renew_s=settings.renew_s,
        orphan_s=settings.orphan_s,
        cancel_s=settings.cancel_s,
    )
    return TrainerContext(
        ledger=service.ledger,
        objects=service.objects,
        delete_shard=service.delete_shard,
        worker_id=worker_id,
        scratch=scratch,
        health=health,
        models_dir=settings.models_dir,
        scratch_bytes=settings.scratch_bytes,
        needs_gpu=settings.needs_gpu,
        node_cache=settings.node_cache,
        times=times,
        stall_s=settings.stall_s,
        start_stall_s=settings.start_stall_s,
        stopping=stopping,
        child_command=child_command,
    )
