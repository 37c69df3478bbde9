"""Celery's consumer with two changes: what it drops, and how it treats a failed acknowledgement.

Messages may come from another release, or from anyone who can reach the broker. An unreadable
message is dropped with one log line and no traceback. Its content is never logged.

An acknowledgement that the broker did not take ends the connection. Celery 5.7 only logs it, but
kombu's Redis channel still counts the message as out (``QoS.ack`` removes it from Redis before it
forgets it itself). With one message at a time such a channel never reads again: it polls no socket,
so it never learns that the broker came back. A new connection has a new channel.
"""

from typing import Any

import structlog
from celery.worker.consumer import Consumer

from services.metrics.work import rings_dropped

log = structlog.get_logger(__name__)


class RingConsumer(Consumer):  # type: ignore[misc]
    """Named in the setting ``worker_consumer``."""

    def call_soon_ack(self, settle: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge or reject on the event loop, where a connection error means: reconnect.

        ``settle`` is called with a logger and the errors that it is to log and swallow: none.
        """
        if args:
            logger, _errors, *rest = args
            args = (logger, (), *rest)
        return super().call_soon_ack(settle, *args, **kwargs)

    def on_unknown_message(self, _body: object, message: Any) -> None:
        """The message follows neither protocol 1 nor protocol 2."""
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
        rings_dropped.labels(reason=reason).inc()
        log.warning("ring_dropped", reason=reason)
        message.reject()
