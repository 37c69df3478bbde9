"""A TCP proxy before a server that delays, cuts and loses what passes, on request.

Modes:

- ``ok``: passes everything.
- ``slow``: waits 0.4 s before each block of 16 KiB, in both directions.
- ``reset``: answers every connection, old and new, with a TCP reset.
- ``half_body``: passes half of the next block of more than 1 KiB, then resets.
- ``drop_reply``: the server gets the request and acts; its reply is lost with the connection.
- ``503``: answers each HTTP request itself, as S3 does when it is overloaded.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

Mode = Literal["ok", "slow", "reset", "half_body", "drop_reply", "503"]
MODES: tuple[Mode, ...] = get_args(Mode)

_BLOCK_BYTES = 16 << 10
_SLOW_S = 0.4
_HALVED_BYTES = 1 << 10
_OVERLOADED = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message>'
    b"</Error>"
)
_503 = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_OVERLOADED), _OVERLOADED)
)


class FaultProxy:
    """Listens on a free loopback port; its event loop runs in a thread until ``stop``."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._mode: Mode = "ok"
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0
        self.hits: Counter[Mode] = Counter()
        """How often each mode acted on a connection."""

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
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_BLOCK_BYTES)
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
        pair = (writer, upstream[1])
        self._open.update(pair)
        requests = asyncio.ensure_future(self._pass(reader, upstream[1], writer, is_reply=False))
        replies = asyncio.ensure_future(self._pass(upstream[0], writer, writer, is_reply=True))
        try:
            await asyncio.gather(requests, replies)
        except (OSError, _Cut):
            for each in pair:
                _reset(each)
        except asyncio.CancelledError:
            pass  # the proxy is stopped; asyncio would log it
        finally:
            requests.cancel()
            replies.cancel()
            self._open.difference_update(pair)
            for each in pair:
                each.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        while block := await reader.read(_BLOCK_BYTES):
            mode = self._mode
            if mode == "slow":
                self.hits[mode] += 1
                await asyncio.sleep(_SLOW_S)
            elif mode == "drop_reply" and is_reply:
                self.hits[mode] += 1
                raise _Cut
            elif mode == "half_body" and len(block) > _HALVED_BYTES:
                self.hits[mode] += 1
                writer.write(block[: len(block) // 2])
                await writer.drain()
                raise _Cut
            elif mode == "503" and not is_reply:
                self.hits[mode] += 1
                client.write(_503)
                await client.drain()
                client.close()
                return
            writer.write(block)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _reset_all(self) -> None:
        for writer in list(self._open):
            self.hits["reset"] += 1
            _reset(writer)


class _Cut(Exception):  # noqa: N818 - a signal within this file
    """The mode ends this connection."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset in place of a clean end."""
    peer = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
