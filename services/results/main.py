"""The results process: publishes results, relays metrics, sends to webhooks, and deletes.

It deletes what nobody needs, and what it is asked to.
"""

import os
import threading
from datetime import timedelta
from typing import Final

import structlog
from huggingface_hub.utils.tqdm import disable_progress_bars

from services.domain.ids import new_id
from services.logs.setup import configure
from services.metrics.exposition import serve_metrics
from services.objects.open import open_store
from services.processes.core_dumps import forbid_core_dumps
from services.queue.app import NOTIFY_QUEUE, PUBLICATION_TASK
from services.queue.serve import serve
from services.results.abandoned import sweep_abandoned
from services.results.deletion.deleter import DELETE_EVERY_S, Deleter
from services.results.publish import Publisher
from services.results.relay.relayer import Relayer
from services.results.repeating import Repeating
from services.results.restored import settle
from services.results.retention import retention_of
from services.results.sweep import sweep_runs
from services.results.targets.folder import FolderTarget
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.tenant_hub import check_private_keys
from services.results.upkeep import UPKEEP_EVERY_S, keep_up
from services.results.webhooks.courier import Courier
from services.settings.env import Settings
from services.store.database import Database
from services.traces.setup import start_tracing
from services.workers.scratch import Scratch

log = structlog.get_logger(__name__)

_LEASES_A_TRY: Final = 10
"""The lease of a publication or a relay is this many leases of a run: it is not renewed, and what
is sent may be slow."""


def main() -> int:
    """Work until SIGTERM or SIGINT; 0 after a clean end, with the current ring handled.

    Exits with a traceback where the settings are wrong.
    """
    forbid_core_dumps()
    settings = Settings.from_env(os.environ)
    check_private_keys(settings)
    configure("results", settings.log_format)
    start_tracing("results", settings.otlp_endpoint)
    serve_metrics(settings.metrics_host, settings.metrics_port)
    disable_progress_bars()
    database = Database(settings.database_url, max_size=6)
    objects = open_store(settings)
    upload_expires = timedelta(seconds=settings.upload_expires_s)
    lease = timedelta(seconds=settings.lease_s)
    folder = FolderTarget(settings.publications_dir)
    stopping = threading.Event()
    is_stopping = stopping.is_set
    deleter = Deleter(database, objects, folder, lease=lease, is_stopping=is_stopping)
    works = {
        "sweep": lambda: sweep_runs(database, objects, is_stopping=is_stopping),
        "abandoned_uploads": lambda: sweep_abandoned(
            database, objects, after=upload_expires, is_stopping=is_stopping
        ),
        **retention_of(database, objects, settings.retention, lease=lease, is_stopping=is_stopping),
    }

    with (
        Scratch(settings.scratch_dir, new_id("wrk")) as scratch,
        Repeating(
            "upkeep",
            lambda: keep_up(lambda: settle(database, objects, scratch), works, is_stopping),
            every_s=UPKEEP_EVERY_S,
            stopping=stopping,
        ),
        Repeating("deletion", deleter.work, every_s=DELETE_EVERY_S, stopping=stopping),
        Relayer(
            database, scratch, settings.wandb_url, lease=_LEASES_A_TRY * lease, stopping=stopping
        ),
        Courier(database, stopping=stopping),
    ):
        publisher = Publisher(
            database=database,
            objects=objects,
            targets={
                "folder": folder,
                "hub": HubTarget(HubAccess.from_env(os.environ)),
            },
            scratch=scratch,
            lease=_LEASES_A_TRY * lease,
        )
        log.info("worker_up")
        serve(
            settings.broker_url,
            [NOTIFY_QUEUE],
            {PUBLICATION_TASK: publisher.answer_ring},
            acks_late=True,
            on_shutdown=stopping.set,
        )
        log.info("worker_stopping")
    database.close()
    return 0
