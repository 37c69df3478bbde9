"""Celery's consumer, but what it cannot read is dropped with one line instead of a traceback.

Messages may come from an older or newer release, or from whoever reached the broker: their
content never enters the log.
"""

from typing import Any

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger(__name__)


class DroppingConsumer(Consumer):  # type: ignore[misc]
    """Named in the setting ``worker_consumer``; overrides the four complaints of its parent."""

    def on_unknown_message(self, _body: object, message: Any) -> None:
        """Neither protocol 1 nor protocol 2."""
        self._drop(message, "unknown_format")

    def on_unknown_task(self, _body: object, message: Any, _exc: Exception) -> None:
        """No handler has this name."""
        self._drop(message, "unknown_task")

    def on_invalid_task(self, _body: object, message: Any, _exc: Exception) -> None:
        """The arguments are no list, or the content type is not on the list."""
        self._drop(message, "invalid_task")

    def on_decode_error(self, message: Any, _exc: Exception) -> None:
        """The body is not JSON."""
        self._drop(message, "not_decodable")

    def _drop(self, message: Any, reason: str) -> None:
        log.warning("ring_dropped", reason=reason)
        message.reject_log_error(log, self.connection_errors)
