"""The trainer process: answers rings and trains one run at a time in a child process."""

import os
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version

import structlog

from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.logs.setup import configure
from services.metrics.exposition import serve_metrics
from services.metrics.gpu import show_gpus
from services.objects.open import open_store
from services.objects.shards import delete_shard
from services.queue.app import TRAINER_TASK, trainer_queue, worker_queue
from services.queue.serve import serve
from services.settings.env import Settings
from services.store.ledger import open_ledger
from services.traces.setup import start_tracing
from services.trainer.context import TRAINING_PROGRAM
from services.trainer.working import Service, work

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

    def serve_rings(
        answer: Callable[[str], None], *, stopping: threading.Event, drain: Callable[[], None]
    ) -> None:
        del stopping  # Celery ends at the signal by itself
        serve(
            settings.broker_url,
            # Dispatchers of the version before ring for any worker of a class.
            [worker_queue(worker.worker_id), trainer_queue(settings.gpu_class)],
            {TRAINER_TASK: answer},
            acks_late=False,
            on_shutdown=drain,
        )

    with open_ledger(
        settings.database_url,
        lease=timedelta(seconds=settings.lease_s),
        max_attempts=settings.max_attempts,
        max_infra_failures=settings.max_infra_failures,
        half_life=timedelta(seconds=settings.share_half_life_s),
    ) as ledger:
        service = Service(
            ledger=ledger, objects=objects, delete_shard=partial(delete_shard, objects)
        )
        work(settings, worker, service, serve_rings, child_command)
    log.info("worker_down", worker_id=worker.worker_id)
    return 0
