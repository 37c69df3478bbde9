"""A connection of the API: uvicorn's on llhttp, with deadlines, bounds and no two readings.

The client sets the pace of a connection, so each wait for it has a deadline: for the head of a
request, for its body, for the next request, and for room to write.
"""

import asyncio
import socket
from typing import Any, Final, Literal

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from services.api.http import heads
from services.api.http.connections import Connections
from services.api.http.deadline import Deadline
from services.api.http.heads import Refusal, refusal_of_head
from services.api.shapes import ProblemDocument
from services.domain.ids import new_id
from services.metrics import http as metrics
from services.settings.http_limits import HttpLimits

log = structlog.get_logger(__name__)

_MIN_BYTES_PER_S: Final = 1000
_MAX_FRAMING_BYTES: Final = 16 << 10
"""Most bytes around the chunks of a body, beyond as many as it has itself."""
_MAX_PIPELINED: Final = 16
_KERNEL_BYTES: Final = 64 << 10
_LINGER_S: Final = 2.0
"""Time in which a refused client can read why; closing at once would reset what it has not read."""


class _RefusedError(Exception):
    """Ends the parsing of a request; the refusal is kept beside it."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; what it refuses is answered with a problem document, and closed."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._pool = connections
        self._reading: Literal["nothing", "head", "body"] = "nothing"
        self._refusal: Refusal | None = None
        self._is_deaf = False
        """What still arrives is thrown away."""
        self._read_deadline = Deadline(self.loop)
        self._write_deadline = Deadline(self.loop)
        self._fields_bytes = 0
        self._head_bytes = 0
        """Of an unfinished head, without what came with its first byte."""
        self._body_bytes = 0
        self._raw_body_bytes = 0
        self._checked_bytes = 0
        """Of the body, when its speed was last checked."""
        self._unsent_bytes = 0
        """Of answers, when that was last checked."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _set_up(transport, self._limits.write_s)
        refusal = self._pool.admit(self, self.client[0] if self.client else None)
        if refusal is not None:
            self._refuse(refusal)
        else:
            self._read_deadline.set(self._limits.header_s, self._on_head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.remove(self)
        self._is_deaf = True
        self._read_deadline.clear()
        self._write_deadline.clear()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def drop(self) -> None:
        self.transport.abort()

    # What arrives.

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        reading = self._reading
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_deaf = True  # the answer closes the connection
        except httptools.HttpParserError:
            self._refuse(self._refusal or heads.BAD_REQUEST)
        if self._is_deaf or self._reading != reading:
            return
        if reading == "head":
            self._head_bytes += len(data)
            if self._head_bytes > heads.MAX_FIELDS_BYTES + heads.MAX_TARGET_BYTES:
                self._refuse(heads.HEAD_TOO_LARGE if self.headers else heads.TARGET_TOO_LONG)
        elif reading == "body":
            self._raw_body_bytes += len(data)
            if self._raw_body_bytes > 2 * self._body_bytes + _MAX_FRAMING_BYTES:
                self._refuse(heads.BAD_REQUEST)
        elif self._is_idle() and not self._read_deadline.is_set:  # line ends before a request
            self._read_deadline.set(self._limits.header_s, self._on_head_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = "head"
        self._head_bytes = self._fields_bytes = 0
        if not self._read_deadline.is_set:  # a new connection has a deadline already
            self._read_deadline.set(self._limits.header_s, self._on_head_late)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > heads.MAX_TARGET_BYTES:
            self._stop_parsing(heads.TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading == "body":
            return  # a trailer: it must not become a header after the head was judged
        super().on_header(name, value)
        self._fields_bytes += len(name) + len(value) + len(b": \r\n")
        if len(self.headers) > heads.MAX_FIELDS or self._fields_bytes > heads.MAX_FIELDS_BYTES:
            self._stop_parsing(heads.HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        refusal = refusal_of_head(version, self.url, self.headers)
        if refusal is None and len(self.pipeline) >= _MAX_PIPELINED:
            refusal = heads.BAD_REQUEST
        if refusal is not None:
            self._stop_parsing(refusal)
        if version == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False
        self._pool.is_busy(self)
        self._reading = "body"
        self._body_bytes = self._raw_body_bytes = self._checked_bytes = 0
        self._read_deadline.set(self._limits.body_s, self._check_body)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = "nothing"
        self._read_deadline.clear()
        super().on_message_complete()
        if self._is_idle() and not self.transport.is_closing():  # answered before it had arrived
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # What is too slow.

    def _on_head_late(self) -> None:
        if self.flow.read_paused:  # an earlier request is answered first
            self._read_deadline.set(self._limits.header_s, self._on_head_late)
        elif self._reading == "head":
            self._refuse(heads.TOO_SLOW)
        else:
            self._close()

    def _check_body(self) -> None:
        """Refuse the request where too little of its body came since the last look."""
        least_bytes = self._limits.body_s * _MIN_BYTES_PER_S
        is_ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if not is_ours and self._body_bytes - self._checked_bytes < least_bytes:
            self._refuse(heads.TOO_SLOW)
            return
        self._checked_bytes = self._body_bytes
        self._read_deadline.set(self._limits.body_s, self._check_body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self._write_deadline.clear()
        super().resume_writing()

    def _watch_writing(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._write_deadline.set(self._limits.write_s, self._check_writing)

    def _check_writing(self) -> None:
        """Drop a client that has taken too little of its answer since the last look."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if self._unsent_bytes - unsent_bytes < self._limits.write_s * _MIN_BYTES_PER_S:
            log.info("slow_reader_dropped", unsent_bytes=unsent_bytes)
            self.transport.abort()
        else:
            self._watch_writing()

    # What comes after an answer.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self.cycle.response_complete:
            self._pool.is_waiting(self)
            if self._reading == "body":  # what is left of it is thrown away, for a while
                self._read_deadline.set(self._limits.body_s, self._close)

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # Refusing.

    def _stop_parsing(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _RefusedError

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, where no other answer is under way, and read nothing more of this connection."""
        self._is_deaf = True
        self._read_deadline.clear()
        metrics.problems.labels(code=refusal.code).inc()
        log.info("request_refused", status=refusal.status, code=refusal.code)
        if self._reading == "body":
            if self.cycle.response_started or self.pipeline:
                self._close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif not self._is_idle():
            self.cycle.keep_alive = False  # the requests before this one are answered, then closed
            return
        self.transport.write(_response(refusal))
        self.transport.write_eof()
        self.flow.resume_reading()
        self._read_deadline.set(_LINGER_S, self.transport.abort)

    def _close(self) -> None:
        """Close once what was written is sent, within the deadline for writing."""
        self.transport.close()
        if self.transport.get_write_buffer_size() and not self._write_deadline.is_set:
            self._watch_writing()


def _response(refusal: Refusal) -> bytes:
    request_id = new_id("req")
    document = ProblemDocument(
        type=f"urn:reverie:problem:{refusal.code}",
        title=refusal.code.replace("_", " ").capitalize(),
        status=refusal.status,
        detail=refusal.detail,
        instance="",
        code=refusal.code,
        request_id=request_id,
        retryable=refusal.retryable,
    )
    body = document.model_dump_json().encode()
    fields = [
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
        b"connection: close",
        b"x-request-id: " + request_id.encode(),
        b"x-content-type-options: nosniff",
        b"cache-control: no-store",
    ]
    if refusal.retryable:
        fields.append(b"retry-after: %d" % heads.RETRY_AFTER_S)
    return STATUS_LINE[refusal.status] + b"\r\n".join(fields) + b"\r\n\r\n" + body


def _set_up(transport: asyncio.Transport, write_s: float) -> None:
    """Send at once, and keep unsent bytes few: a client that reads nothing shows, and costs little.

    asyncio sets TCP_NODELAY only where the listening socket names its protocol. Without it the body
    of an answer waits 40 ms for the acknowledgement of its head.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_BYTES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(write_s * 1000))
