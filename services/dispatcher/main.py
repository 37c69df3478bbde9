"""The dispatcher process: a round every REVERIE_POLL_S seconds, and at once on a notification."""

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Final

import structlog

from services.dispatcher.health import Health
from services.dispatcher.loop import Dispatcher
from services.dispatcher.reporting import Reporting
from services.domain.placement import HEARTBEATS_MISSED
from services.logs.setup import configure
from services.metrics import dispatching as metrics
from services.metrics.exposition import serve_metrics
from services.queue.rings import Rings
from services.settings.env import Settings
from services.store.database import WORK, Database, DatabaseDownError
from services.traces.setup import start_tracing

log = structlog.get_logger(__name__)

_SHORTEST_PAUSE_S: Final = 0.02
"""Minimal pause between rounds, however many notifications arrive."""
_LOCK_TIMEOUT: Final = timedelta(seconds=2)
"""Longest wait for a row that another transaction has locked; then the run is postponed."""


def main() -> int:
    """Work until SIGTERM or SIGINT; 0 after a clean end."""
    settings = Settings.from_env(os.environ)
    configure("dispatcher", settings.log_format)
    start_tracing("dispatcher", settings.otlp_endpoint)
    serve_metrics(settings.metrics_host, settings.metrics_port)
    stopping, work = threading.Event(), threading.Event()

    def stop(_number: int, _frame: object) -> None:
        # Not `work`: this thread may hold its lock now, on its way into the wait.
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    database = Database(settings.database_url, max_size=3, lock_timeout=_LOCK_TIMEOUT)
    listener = threading.Thread(
        target=_listen, args=(database, work, stopping), name="listener", daemon=True
    )
    listener.start()
    silence = timedelta(seconds=settings.heartbeat_s) * HEARTBEATS_MISSED
    with (
        Rings(settings.broker_url) as rings,
        Reporting(database, is_broker_up=rings.is_up, silence=silence) as reporting,
    ):
        dispatcher = Dispatcher(
            database=database,
            rings=rings,
            health=Health(settings.lease_s),
            offer=timedelta(seconds=settings.offer_s),
            heartbeat=timedelta(seconds=settings.heartbeat_s),
            max_attempts=settings.max_attempts,
            max_infra_failures=settings.max_infra_failures,
            quotas=settings.quotas,
            half_life=timedelta(seconds=settings.share_half_life_s),
            aging=timedelta(seconds=settings.aging_s),
        )
        log.info("dispatcher_up")
        while not stopping.is_set():
            work.clear()
            try:
                with metrics.round_seconds.time():
                    dispatcher.round()
                metrics.rounds.labels(outcome="ok").inc()
                reporting.round_ended()
            except DatabaseDownError as error:
                metrics.rounds.labels(outcome="database_down").inc()
                log.warning("database_down", error=str(error))
            time.sleep(_SHORTEST_PAUSE_S)  # no wait of `stopping`, for the same reason as in `stop`
            work.wait(settings.poll_s)
    database.close()
    log.info("dispatcher_down")
    return 0


def _listen(database: Database, work: threading.Event, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            for notice in database.listen(WORK):  # None each second
                if stopping.is_set():
                    break
                if notice is not None:
                    work.set()
        except DatabaseDownError as error:
            log.warning("listening_interrupted", error=str(error))
            stopping.wait(1)  # meanwhile rounds start every poll_s only
    work.set()  # which the handler of the signal may not do
