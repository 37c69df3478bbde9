"""Handle rings: a Celery worker in the foreground of this process, with a few threads."""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from celery import Celery, signals
from celery.platforms import SecurityWarning

from services.domain.ids import is_id
from services.metrics.work import rings_dropped
from services.queue import app as apps
from services.traces.spans import continued

log = structlog.get_logger(__name__)

_HEX_DIGITS: Final = frozenset("0123456789abcdef")


def serve(
    broker_url: str,
    queues: Sequence[str],
    handlers: Mapping[str, Callable[..., None]],
    *,
    acks_late: bool,
    on_shutdown: Callable[[], None],
    threads: int = 1,
) -> None:
    """Handle messages of ``queues`` until SIGTERM or SIGINT; returns when the last one is done.

    Must run in the main thread. While the broker is away, this waits and reconnects. A message
    that is malformed is dropped with one log line; what a handler raises is logged with its
    traceback and the message is dropped, because the row that it points at stays due.

    Args:
        handlers: by task name (see services.queue.app); called with the ids as text, in a thread.
        acks_late: False for training, which is protected by its lease; True for short work.
        on_shutdown: called at once when the process gets its stop signal, in the signal handler: it
            may set a flag or an event, and must neither block nor raise.
        threads: handlers at the same time; each takes the next message of any of the queues.
    """
    app = apps.worker_app(broker_url, tuple(queues), acks_late=acks_late, threads=threads)
    for name, handler in handlers.items():
        app.task(name=name, bind=True)(_answer(name, handler))

    def shutting_down(**_: object) -> None:
        on_shutdown()

    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.setup_logging.connect(_leave_logging_alone)
    tracer_log, unreadable = logging.getLogger("celery.app.trace"), _Unreadable()
    tracer_log.addFilter(unreadable)
    try:
        with warnings.catch_warnings():
            # Celery warns of pickle when run as root; only JSON is accepted here.
            warnings.simplefilter("ignore", SecurityWarning)
            _run_worker(app)
    finally:
        tracer_log.removeFilter(unreadable)
        signals.worker_shutting_down.disconnect(shutting_down)
        signals.setup_logging.disconnect(_leave_logging_alone)


def _run_worker(app: Celery) -> None:
    worker = app.Worker(
        hostname=f"{os.getpid()}@{socket.gethostname()}",
        pool_cls="threads",
        concurrency=app.conf.worker_concurrency,
        quiet=True,
        # Workers need not exchange their state over the broker: it is in the database.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()


def _answer(name: str, handler: Callable[..., None]) -> Callable[..., None]:
    """The Celery task for ``handler``: check the ids, delegate, log."""

    def answer(task: Any, /, *args: object, **kwargs: object) -> None:
        ids = _ids_of(name, args)
        if ids is None or kwargs:
            rings_dropped.labels(reason="malformed").inc()
            log.warning("ring_dropped", reason="malformed", task=name)
            return
        # Every line that the handler logs names its row.
        with (
            structlog.contextvars.bound_contextvars(
                **dict(zip(_ARGUMENTS[name], ids, strict=True))
            ),
            continued(_traceparent_of(task)),
        ):
            log.debug("ring_heard", task=name)
            try:
                handler(*ids)
            except Exception:  # the outermost loop: one bad row must not end the worker
                log.exception("ring_failed", task=name)

    answer.__name__ = name.replace(".", "_")
    return answer


def _traceparent_of(task: Any) -> str | None:
    """The message's header, which may be of another release, or anything."""
    found = (task.request.headers or {}).get(apps.TRACE_HEADER)
    return found if isinstance(found, str) else None


def _ids_of(name: str, args: Sequence[Any]) -> tuple[str, ...] | None:
    """The arguments as text where they are what this task takes, else None."""
    checks = _ARGUMENTS.get(name)
    if checks is None or len(checks) != len(args):
        return None
    if not all(
        isinstance(arg, str) and check(arg)
        for check, arg in zip(checks.values(), args, strict=True)
    ):
        return None
    return tuple(args)


def _is_run(text: str) -> bool:
    return is_id(text, "run")


def _is_tenant(text: str) -> bool:
    return is_id(text, "ten")


def _is_dataset(text: str) -> bool:
    return is_id(text, "ds")


def _is_publication(text: str) -> bool:
    return is_id(text, "pub")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= _HEX_DIGITS  # SHA-256 in lower-case hex


_ARGUMENTS: Final[Mapping[str, Mapping[str, Callable[[str], bool]]]] = {
    apps.TRAINER_TASK: {"run_id": _is_run},
    apps.ADMISSION_TASK: {"tenant_id": _is_tenant, "run_id": _is_run},
    apps.SHARD_TASK: {"tenant_id": _is_tenant, "digest": _is_digest},
    apps.DATASET_TASK: {"tenant_id": _is_tenant, "dataset_id": _is_dataset},
    apps.IMPORT_TASK: {"tenant_id": _is_tenant, "dataset_id": _is_dataset},
    apps.PUBLICATION_TASK: {"tenant_id": _is_tenant, "publication_id": _is_publication},
}
"""Task → its arguments in order: name in log lines, and check."""


class _Unreadable(logging.Filter):
    """Our tasks never raise. So an error that Celery's tracer logs is an unreadable message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Log one line instead of its traceback."""
        if record.levelno < logging.ERROR:
            return True
        rings_dropped.labels(reason="not_unpackable").inc()
        log.warning("ring_dropped", reason="not_unpackable")
        return False


def _leave_logging_alone(**_: object) -> None:
    """Having a receiver for ``setup_logging`` is what keeps Celery from configuring logging."""
