"""The trainer process: answers rings and trains one run at a time in a child process."""

import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version

import structlog

from services.domain.ids import new_id
from services.domain.ledger import Ledger, Worker
from services.logs.setup import configure
from services.metrics.exposition import serve_metrics
from services.metrics.gpu import show_gpus
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.queue.app import TRAINER_TASK, trainer_queue, worker_queue
from services.queue.serve import serve
from services.settings.env import Settings
from services.store.ledger import open_ledger
from services.traces.setup import start_tracing
from services.trainer.attempt import answer_ring
from services.trainer.context import TRAINING_PROGRAM, Assignment, TrainerContext
from services.trainer.lease import LeaseTimes
from services.workers.health import WorkerHealth
from services.workers.heartbeat import Heartbeat
from services.workers.scratch import Scratch

log = structlog.get_logger(__name__)


def main(child_command: Sequence[str] = TRAINING_PROGRAM) -> int:
    """Work until SIGTERM or SIGINT; 0 after a clean end, with the running attempt handed back.

    Args:
        child_command: the program that trains, before its arguments.

    Exits with a traceback where the settings are wrong, or where the object store does not honour
    conditional writes.
    """
    settings = Settings.from_env(os.environ)
    configure("trainer", settings.log_format)
    start_tracing("trainer", settings.otlp_endpoint)
    show_gpus()
    serve_metrics(settings.metrics_host, settings.metrics_port)
    worker = Worker(
        worker_id=new_id("wrk"),
        kind="trainer",
        gpu_class=settings.gpu_class,
        version=version("reverie"),
        node=settings.node,
    )
    objects = open_store(settings)
    objects.prove_conditional_writes()
    with open_ledger(
        settings.database_url,
        lease=timedelta(seconds=settings.lease_s),
        max_attempts=settings.max_attempts,
        max_infra_failures=settings.max_infra_failures,
        half_life=timedelta(seconds=settings.share_half_life_s),
    ) as ledger:
        _answer_rings(settings, worker, ledger, objects, child_command)
    log.info("worker_down", worker_id=worker.worker_id)
    return 0


def _answer_rings(
    settings: Settings,
    worker: Worker,
    ledger: Ledger,
    objects: ObjectStore,
    child_command: Sequence[str],
) -> None:
    """Handle messages until the process is asked to stop."""
    stopping, assignment = threading.Event(), Assignment()
    with Scratch(settings.scratch_dir, worker.worker_id) as scratch:
        heartbeat = Heartbeat(
            ledger,
            worker,
            every_s=settings.heartbeat_s,
            is_draining=stopping.is_set,
            run_id=lambda: assignment.run_id,
            drain_reason=lambda: health.drain_reason,
        )
        health = WorkerHealth(
            scratch,
            objects,
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
            ledger=ledger,
            objects=objects,
            scratch=scratch,
            health=health,
            stopping=stopping,
            child_command=child_command,
        )
        with health, heartbeat:
            log.info("worker_up", worker_id=worker.worker_id, gpu_class=worker.gpu_class)
            serve(
                settings.broker_url,
                # Dispatchers of the version before ring for any worker of a class.
                [worker_queue(worker.worker_id), trainer_queue(settings.gpu_class)],
                {TRAINER_TASK: lambda run_id: answer_ring(context, assignment, run_id)},
                acks_late=False,
                on_shutdown=drain,
            )


def _context(
    settings: Settings,
    *,
    worker_id: str,
    ledger: Ledger,
    objects: ObjectStore,
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
        ledger=ledger,
        objects=objects,
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
