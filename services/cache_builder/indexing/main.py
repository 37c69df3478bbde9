"""The process that admits runs and imports datasets, beside a cache builder and ended with it.

It is a process of its own, because a Celery worker takes the next message of any of its queues: a
builder that also listened for admissions would make them wait for its long work.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from services.cache_builder.importing import Importer
from services.cache_builder.indexing.index import TRACEPARENT, Indexer
from services.domain.ids import new_id
from services.logs.setup import configure
from services.objects.open import open_store
from services.processes.core_dumps import forbid_core_dumps
from services.processes.request_child import RequestChild
from services.queue.app import ADMISSION_TASK, CONTROL_QUEUE, IMPORT_TASK
from services.queue.serve import serve
from services.settings.env import Settings
from services.store.database import Database
from services.traces.setup import start_tracing
from services.traces.spans import continued
from services.workers.scratch import Scratch
from trainer_core.process.supervision import (
    EXIT_ORPHANED,
    SupervisorGoneError,
    parse_supervisor,
    start_watch,
)

log = structlog.get_logger(__name__)

_THREADS: Final = 3
"""One is enough for small runs while the others wait for a large one, which is indexed in a process
of its own, and for what an import fetches. The dispatcher rings for at most one large run a
builder, and this process imports one dataset at a time."""
_FETCHING_S: Final = 900.0
"""For one request: a file of 4 GiB of the Hub at 5 MB/s."""
_FETCHER_IDLE_S: Final = 120.0
_LOCK_TIMEOUT: Final = timedelta(seconds=2)
"""Longest wait for a row that another transaction has locked; then the run is postponed."""
_IMPORT_LOCK_TIMEOUT: Final = timedelta(seconds=20)
"""An import that is postponed fetches its portion again: waiting is cheaper."""


def main(argv: Sequence[str]) -> int:
    """Work until SIGTERM; 0 after a clean end, 70 if the cache builder died."""
    parser = argparse.ArgumentParser(prog="python -m services.cache_builder.indexing")
    parser.add_argument("--supervisor", type=parse_supervisor, metavar="PID:START_TICKS")
    parser.add_argument(
        "--run", nargs=2, metavar=("TENANT_ID", "RUN_ID"), help="handle this run only, and exit"
    )
    args = parser.parse_args(argv)
    if args.supervisor is not None:
        try:
            start_watch(*args.supervisor)
        except SupervisorGoneError as error:
            print(error.message, file=sys.stderr)  # noqa: T201 - nobody else reads it
            return EXIT_ORPHANED
    forbid_core_dumps()  # what decodes strangers' files runs as the same user
    settings = Settings.from_env(os.environ)
    configure("indexer", settings.log_format)
    start_tracing("indexer", settings.otlp_endpoint)
    database = Database(settings.database_url, max_size=2 * _THREADS, lock_timeout=_LOCK_TIMEOUT)
    indexer = Indexer(
        database=database, models_dir=settings.models_dir, objects=open_store(settings)
    )
    if args.run is not None:
        with continued(os.environ.get(TRACEPARENT)):
            indexer.admit(*args.run)
    else:
        log.info("indexer_up")
        _answer_rings(settings, indexer)
        log.info("indexer_down")
    database.close()
    return 0


def _answer_rings(settings: Settings, indexer: Indexer) -> None:
    fetch: tuple[str, ...] = (sys.executable, "-m", "trainer_core", "fetch")
    if endpoint := os.environ.get("HF_ENDPOINT"):
        fetch = (*fetch, "--hub-endpoint", endpoint)
    importing = Database(settings.database_url, max_size=2, lock_timeout=_IMPORT_LOCK_TIMEOUT)
    with (
        contextlib.closing(importing),
        Scratch(settings.scratch_dir, new_id("wrk")) as scratch,
        RequestChild(
            fetch,
            env=os.environ,
            deadline_s=_FETCHING_S,
            idle_end_s=_FETCHER_IDLE_S,
            added={"HF_HOME": str(scratch.folder / "hub"), **_certificates(os.environ)},
        ) as fetcher,
    ):
        importer = Importer(
            database=importing,
            objects=indexer.objects,
            fetcher=fetcher,
            scratch=scratch,
            networks=settings.import_networks,
            quotas=settings.quotas,
        )
        serve(
            settings.broker_url,
            [CONTROL_QUEUE],
            {ADMISSION_TASK: indexer.answer_ring, IMPORT_TASK: importer.answer_ring},
            acks_late=True,
            on_shutdown=lambda: None,
            threads=_THREADS,
        )


def _certificates(env: Mapping[str, str]) -> dict[str, str]:
    """What the fetching process trusts, where the operator has set that."""
    return {"SSL_CERT_FILE": file} if (file := env.get("SSL_CERT_FILE")) else {}
