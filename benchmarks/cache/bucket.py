"""Starts the server of the virtual bucket, and measures what can be read from it at most."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.cache.content import BUCKET, Content, Width
from benchmarks.cache.objects import tar_keys
from tests.support.ports import free_port

_START_S: Final = 120
_READ_S: Final = 3.0


class Server:
    """The address of a running server."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def sent_bytes(self) -> int:
        """What it has sent of objects since it started."""
        stats = f"{self.endpoint}/stats"
        with urllib.request.urlopen(stats, timeout=30) as answer:  # noqa: S310 - of this machine
            return int(json.load(answer)["sent_bytes"])


@contextlib.contextmanager
def serving(data: Path, width: Width, records: int) -> Iterator[Server]:
    """The server of so many records, as a process."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.cache.server", str(data)]
    command += [f"--width={width}", f"--records={records}", f"--port={port}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        server = Server(f"http://127.0.0.1:{port}")
        deadline_s = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(urllib.error.URLError):
                server.sent_bytes()
                break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


def limit_mb_per_s(server: Server, content: Content, records: int, threads: int) -> float:
    """What so many plain connections read together: ranges of a record's size, thrown away."""
    keys = tar_keys(content, records)
    counts = [0] * threads
    end_s = time.monotonic() + _READ_S

    def read(thread: int) -> None:
        host, _, port = server.endpoint.removeprefix("http://").partition(":")
        buffer = bytearray(1 << 20)
        last = content.record_bytes - 1
        request = (
            f"GET /{BUCKET}/{keys[thread % len(keys)]} HTTP/1.1\r\nHost: {host}\r\n"
            f"Range: bytes=0-{last}\r\n\r\n"
        ).encode()
        with socket.create_connection((host, int(port))) as connection:
            while time.monotonic() < end_s:
                connection.sendall(request)
                left = content.record_bytes + _header_bytes(connection)
                while left > 0:
                    got = connection.recv_into(buffer)
                    if not got:
                        raise RuntimeError("the server closed the connection")
                    left -= got
                    counts[thread] += got

    running = [threading.Thread(target=read, args=(each,)) for each in range(threads)]
    started_s = time.monotonic()
    for each in running:
        each.start()
    for each in running:
        each.join()
    return sum(counts) / (time.monotonic() - started_s) / 1e6


def _header_bytes(connection: socket.socket) -> int:
    """The length of the answer's header, which stays in the socket."""
    while True:
        first = connection.recv(4096, socket.MSG_PEEK)
        if (end := first.find(b"\r\n\r\n")) >= 0:
            return end + 4
        if not first:
            raise RuntimeError("the server closed the connection")
