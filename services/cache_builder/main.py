"""The cache builder process: verifies datasets and builds cache shards, one ring at a time.

A second process beside it admits runs (see ``indexing``).
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

import structlog

from services.cache_builder.build import Builder
from services.cache_builder.indexer_process import IndexerProcess
from services.cache_builder.indexing.index import COMMAND
from services.cache_builder.verify import Verifier
from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.logs.setup import configure
from services.metrics.exposition import serve_metrics
from services.metrics.gpu import show_gpus
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.processes.core_dumps import forbid_core_dumps
from services.processes.request_child import RequestChild
from services.queue.app import CACHE_QUEUE, DATASET_TASK, SHARD_TASK
from services.queue.serve import serve
from services.settings.env import Settings
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.workers.health import WorkerHealth
from services.workers.heartbeat import Heartbeat
from services.workers.scratch import Scratch
from trainer_core.weights.start_adapter import MAX_UPLOAD_BYTES

log = structlog.get_logger(__name__)

LIBRARY: Final = (sys.executable, "-m", "trainer_core")
_DECODING_S: Final = 60.0
"""A batch of pictures that takes longer is tried one by one; a picture that does is left out."""
_SCRATCH_BYTES: Final = MAX_UPLOAD_BYTES
"""What has to be free again after a full disk: the largest file of a dataset, an adapter. A large
shard and its pictures take half of it."""
_TICK_S: Final = 0.5


def main(library: Sequence[str] = LIBRARY, indexing: Sequence[str] = COMMAND) -> int:
    """Work until SIGTERM or SIGINT; 0 after a clean end, once the current ring is answered.

    Args:
        library: the program that inspects and encodes, before its arguments.
        indexing: the program that admits runs, before its arguments.

    Exits with a traceback where the settings are wrong, or where the object store does not honour
    conditional writes.
    """
    forbid_core_dumps()  # what decodes strangers' files runs as the same user
    settings = Settings.from_env(os.environ)
    configure("cache_builder", settings.log_format)
    show_gpus()
    serve_metrics(settings.metrics_host, settings.metrics_port)
    worker = Worker(
        worker_id=new_id("wrk"),
        kind="cache_builder",
        gpu_class=settings.gpu_class,
        version=version("reverie"),
    )
    objects = open_store(settings)
    objects.prove_conditional_writes()
    database = Database(settings.database_url, max_size=3)
    _answer_rings(
        settings, worker, database, objects, library=library, indexer=IndexerProcess(indexing)
    )
    database.close()
    log.info("worker_down", worker_id=worker.worker_id)
    return 0


def _answer_rings(
    settings: Settings,
    worker: Worker,
    database: Database,
    objects: ObjectStore,
    *,
    library: Sequence[str],
    indexer: IndexerProcess,
) -> None:
    """Handle messages until the process is asked to stop."""
    stopping = threading.Event()
    encode = (*library, "encode", "--models-dir", str(settings.models_dir))
    inspect = (*library, "inspect")
    with (
        Scratch(settings.scratch_dir, worker.worker_id) as scratch,
        RequestChild(encode, env=os.environ) as encoder,
        RequestChild(inspect, env=os.environ, deadline_s=_DECODING_S) as inspector,
    ):
        heartbeat = Heartbeat(
            PostgresLedger(database),
            worker,
            every_s=settings.heartbeat_s,
            is_draining=stopping.is_set,
            run_id=lambda: None,
            drain_reason=lambda: health.drain_reason,
        )
        health = WorkerHealth(
            scratch,
            objects,
            scratch_bytes=_SCRATCH_BYTES,
            models_dir=settings.models_dir,
            needs_gpu=False,
            program=library,
            on_change=heartbeat.wake,
        )
        verifier = Verifier(
            database=database,
            objects=objects,
            inspector=inspector,
            scratch=scratch,
            health=health,
        )
        builder = Builder(
            database=database, objects=objects, encoder=encoder, scratch=scratch, health=health
        )

        def drain() -> None:
            stopping.set()
            indexer.ask_to_stop()
            heartbeat.wake()

        with health, indexer, heartbeat:
            log.info("worker_up", worker_id=worker.worker_id)
            serve(
                settings.broker_url,
                [CACHE_QUEUE],
                {
                    DATASET_TASK: _when_healthy(verifier.answer_ring, health, stopping),
                    SHARD_TASK: _when_healthy(builder.answer_ring, health, stopping),
                },
                acks_late=True,
                on_shutdown=drain,
            )


def _when_healthy(
    answer_ring: Callable[[str, str], None], health: WorkerHealth, stopping: threading.Event
) -> Callable[[str, str], None]:
    """Answer a ring once the builder can work.

    All builders share a queue. One that keeps its ring takes no other, and the row is rung again.
    """

    def answer(tenant_id: str, id_: str) -> None:
        while health.must_decline() is not None and not stopping.wait(_TICK_S):
            pass
        if not stopping.is_set():
            answer_ring(tenant_id, id_)

    return answer
