"""The trainer of a rented machine: it reaches the service over HTTPS only, with a worker's key."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Final

import structlog

from services.domain.ledger import Worker
from services.logs.setup import configure
from services.metrics.exposition import serve_metrics
from services.metrics.gpu import show_gpus
from services.remote.ledger import HttpLedger, ledger_timeout
from services.remote.objects import SignedObjects
from services.remote.offers import OFFERS_TIMEOUT, Offers
from services.remote.probe import CannotJoinError, Identity, probe
from services.remote.session import Trust, WorkerSession
from services.settings.env import Settings
from services.traces.setup import start_tracing
from services.traces.spans import continued
from services.trainer.context import TRAINING_PROGRAM
from services.trainer.working import Service, work

log = structlog.get_logger(__name__)

_BETWEEN_OFFERS_S: Final = 0.5
"""An offer that this worker declines comes again for as long as it lasts."""


def join(url: str, trust: Trust, child_command: Sequence[str] = TRAINING_PROGRAM) -> int:
    """Work for the service at ``url`` until SIGTERM or SIGINT; 0 after a clean end.

    GPU class, node and the times of leases are the service's. Raises SettingsError for the key,
    and ClientError where the service cannot be joined, or refuses the key later.

    Args:
        child_command: the program that trains, before its arguments.
    """
    settings = Settings.from_env(os.environ)
    configure("trainer", settings.log_format)
    start_tracing("trainer", settings.otlp_endpoint)
    key = settings.worker_key
    identity = probe(WorkerSession(url, key, trust))
    session = WorkerSession(url, key, trust, timeout=ledger_timeout(identity.lease_s))
    offering = WorkerSession(url, key, trust, timeout=OFFERS_TIMEOUT)
    show_gpus()
    serve_metrics(settings.metrics_host, settings.metrics_port)
    worker = Worker(
        worker_id=identity.worker_id,
        kind="trainer",
        gpu_class=identity.gpu_class,
        version=version("reverie"),
        node=identity.node,
    )

    def serve_offers(
        answer: Callable[[str], None], *, stopping: threading.Event, drain: Callable[[], None]
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: drain())
        _answer_offers(Offers(offering, stopping), answer, stopping)

    service = Service(
        ledger=HttpLedger(session),
        objects=SignedObjects(session),
        delete_shard=lambda *_: None,  # the service has done that when it answers
    )
    work(_as_told(settings, identity), worker, service, serve_offers, child_command)
    if offering.is_refused:
        raise CannotJoinError(
            "The service refuses this worker's key from now on: it was revoked or has expired."
        )
    log.info("worker_down", worker_id=worker.worker_id)
    return 0


def _answer_offers(
    offers: Offers, answer: Callable[[str], None], stopping: threading.Event
) -> None:
    while (offer := offers.next()) is not None:
        with (
            structlog.contextvars.bound_contextvars(run_id=offer.run_id),
            continued(offer.traceparent),
        ):
            try:
                answer(offer.run_id)
            except Exception:  # the outermost loop: one bad run must not end the worker
                log.exception("offer_failed")
        if not stopping.is_set():  # no wait: on its way into that, a handler could not set it
            time.sleep(_BETWEEN_OFFERS_S)


def _as_told(settings: Settings, identity: Identity) -> Settings:
    return replace(
        settings,
        gpu_class=identity.gpu_class,
        node=identity.node,
        lease_s=identity.lease_s,
        renew_s=identity.renew_s,
        orphan_s=identity.orphan_s,
        cancel_s=identity.cancel_s,
        heartbeat_s=identity.heartbeat_s,
    )
