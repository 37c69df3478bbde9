"""A TCP proxy before a server that delays, cuts and loses what passes, on request.

Modes:

- ``ok``: passes everything.
- ``slow``: waits 0.4 s before each block of 16 KiB, in both directions.
- ``reset``: answers every connection, old and new, with a TCP reset.
- ``half_body``: passes half of the next block of more than 1 KiB, then resets.
- ``drop_reply``: the server gets the request and acts; its reply is lost with the connection.
- ``hang``: passes nothing, in either direction, until the mode changes.
- ``503``: answers each HTTP request itself, as S3 does when it is overloaded.
- ``409``: answers each conditional PUT itself, as S3 does while another one is under way.
- ``repeat``: sends each HTTP request twice, one after the other; the client gets the second answer.
- ``repeat_late``: sends each HTTP request once more, some time after its answer.

``lose_answer`` loses one answer that it names, in the mode ``ok``.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Mode = Literal[
    "ok",
    "slow",
    "reset",
    "half_body",
    "drop_reply",
    "hang",
    "503",
    "409",
    "repeat",
    "repeat_late",
]
MODES: tuple[Mode, ...] = get_args(Mode)

_BLOCK_BYTES = 16 << 10
SLOW_S = 0.4
_HALVED_BYTES = 1 << 10
_HANG_LOOK_S = 0.05
_LATE_S = 0.7
_REQUEST = re.compile(rb"([A-Z]+) ([^ ?]+)[^ ]* HTTP/1\.1\r\n")
_INTERIM = b"HTTP/1.1 100 "
"""Start of the answer that asks for the body of a request."""


def _error_answer(status: bytes, code: bytes, message: bytes) -> bytes:
    body = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>' % (
        code,
        message,
    )
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )


_503 = _error_answer(b"503 Service Unavailable", b"SlowDown", b"Reduce your request rate.")
_409 = _error_answer(
    b"409 Conflict", b"ConditionalRequestConflict", b"A conflicting operation is under way."
)


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    request: bytearray = field(default_factory=bytearray)
    """What the client has sent since the answer before."""
    is_answered: bool = True


class LostAnswer:
    """One answer that is to be lost; see ``FaultProxy.lose_answer``. Without texts: none."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._seen: Counter[_Connection] = Counter()
        self._is_lost = threading.Event()

    @property
    def is_lost(self) -> bool:
        return self._is_lost.is_set()

    def note_request(self, connection: _Connection, block: bytes) -> None:
        """Take what a client sends next."""
        for text in self._texts[self._seen[connection] :]:
            if text not in block:
                break
            self._seen[connection] += 1

    def take(self, connection: _Connection) -> bool:
        """Whether the next reply on this connection is the one to lose; True once."""
        if not self._texts or self.is_lost or self._seen[connection] < len(self._texts):
            return False
        self._is_lost.set()
        return True


class FaultProxy:
    """Listens on a free loopback port; its event loop runs in a thread until ``stop``."""

    def __init__(self, upstream_port: int, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: what clients connect with; the server gets plain TCP."""
        self._upstream_port = upstream_port
        self._tls = tls
        self._late: set[asyncio.Task[None]] = set()
        self._mode: Mode = "ok"
        self._losing = LostAnswer(())
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0
        self.hits: Counter[Mode] = Counter()
        """How often each mode acted on a connection."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each HTTP request, in order."""

    @property
    def mode(self) -> Mode:
        return self._mode

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def set(self, mode: Mode) -> None:
        """Change the mode; ``reset`` also resets the connections that are open now."""
        self._mode = mode
        if mode == "reset":
            self._loop.call_soon_threadsafe(self._reset_all)

    def lose_answer(self, *texts: bytes) -> LostAnswer:
        """Lose one answer with its connection: that to the last of these texts.

        The texts are searched in what one connection sends, each after the one before. With
        PostgreSQL the last one is ``COMMIT``: that of a transaction with the others in it.
        """
        self._losing = LostAnswer(texts)
        return self._losing

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_BLOCK_BYTES, ssl=self._tls)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._server.close()
        self._reset_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "reset":
            self.hits["reset"] += 1
            _reset(writer)
            return
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            _reset(writer)
            return
        if self._mode == "reset":  # since the connection to the server was asked for
            self.hits["reset"] += 1
            _reset(upstream[1])
            _reset(writer)
            return
        connection = _Connection(client=writer, server=upstream[1])
        self._open.update((connection.client, connection.server))
        requests = asyncio.ensure_future(self._pass(reader, connection, is_reply=False))
        replies = asyncio.ensure_future(self._pass(upstream[0], connection, is_reply=True))
        try:
            await asyncio.gather(requests, replies)
        except (OSError, _Cut):
            for each in (connection.client, connection.server):
                _reset(each)
        except asyncio.CancelledError:
            pass  # the proxy is stopped; asyncio would log it
        finally:
            requests.cancel()
            replies.cancel()
            for each in (connection.client, connection.server):
                self._open.discard(each)
                each.close()

    async def _pass(
        self, reader: asyncio.StreamReader, connection: _Connection, *, is_reply: bool
    ) -> None:
        while block := await reader.read(_BLOCK_BYTES):
            mode = self._mode
            is_first = is_reply and _is_first_of_answer(connection, block)
            connection.is_answered |= is_first
            if mode == "slow":
                self.hits[mode] += 1
                await asyncio.sleep(SLOW_S)
            elif mode == "hang":
                self.hits[mode] += 1
                while self._mode == "hang":
                    await asyncio.sleep(_HANG_LOOK_S)
            elif is_reply and self._must_lose(mode, connection, block):
                self.hits["drop_reply"] += 1
                raise _Cut
            elif mode == "half_body" and len(block) > _HALVED_BYTES:
                self.hits[mode] += 1
                await _send(connection, block[: len(block) // 2], is_reply=is_reply)
                raise _Cut
            elif not is_reply and (answer := _answer_of(mode, block)):
                self.hits[mode] += 1
                connection.client.write(answer)
                await connection.client.drain()
                connection.client.close()
                return
            elif is_first and mode == "repeat":
                self.hits[mode] += 1
                reader = await self._ask_again(connection)
                continue
            elif is_first and mode == "repeat_late":
                self.hits[mode] += 1
                late = asyncio.ensure_future(self._ask_late(bytes(connection.request)))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
            if not is_reply:
                self._losing.note_request(connection, block)
                _note_request(connection, block)
                if request := _REQUEST.match(block):
                    self.requests.append((request[1].decode(), request[2].decode()))
            await _send(connection, block, is_reply=is_reply)
        with contextlib.suppress(OSError, RuntimeError):  # TLS cannot be closed on one side
            (connection.client if is_reply else connection.server).write_eof()

    async def _ask_again(self, connection: _Connection) -> asyncio.StreamReader:
        """Send the request on a new connection to the server, in place of the one before."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._open.discard(connection.server)
        connection.server.close()
        connection.server = writer
        self._open.add(writer)
        writer.write(bytes(connection.request))
        await writer.drain()
        return reader

    async def _ask_late(self, request: bytes) -> None:
        await asyncio.sleep(_LATE_S)
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            try:
                writer.write(request)
                await writer.drain()
                await reader.read(_BLOCK_BYTES)
            finally:
                writer.close()

    def _must_lose(self, mode: Mode, connection: _Connection, reply: bytes) -> bool:
        """Whether this reply is lost. One that asks for the body is not: the server did nothing."""
        is_interim = reply.startswith(_INTERIM)
        return not is_interim and (mode == "drop_reply" or self._losing.take(connection))

    def _reset_all(self) -> None:
        for writer in list(self._open):
            self.hits["reset"] += 1
            _reset(writer)


def _answer_of(mode: Mode, request: bytes) -> bytes | None:
    """The proxy's own answer to this request; None where the server answers."""
    if mode == "503":
        return _503
    if mode == "409" and request.startswith(b"PUT ") and b"if-none-match" in request.lower():
        return _409
    return None


def _note_request(connection: _Connection, block: bytes) -> None:
    if connection.is_answered:
        connection.request.clear()
        connection.is_answered = False
    connection.request += block


def _is_first_of_answer(connection: _Connection, block: bytes) -> bool:
    return not connection.is_answered and not block.startswith(_INTERIM)


async def _send(connection: _Connection, block: bytes, *, is_reply: bool) -> None:
    writer = connection.client if is_reply else connection.server
    writer.write(block)
    await writer.drain()


class _Cut(Exception):  # noqa: N818 - a signal within this file
    """The mode ends this connection."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset in place of a clean end."""
    peer = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # with TLS it has none once it is closed
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
