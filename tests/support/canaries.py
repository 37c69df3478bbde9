"""Search for a text wherever it could have been left: files, Redis, the database, processes."""

import base64
import itertools
import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import redis

from services.processes.tree import descendants
from tests.support.redis import RedisServer
from tests.support.waiting import wait_until

_CHUNK_BYTES = 16 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Canaries:
    """Texts that nobody may see, in the forms in which they could be stored."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._forms: list[tuple[str, bytes]] = []
        self._texts = tuple(texts)
        for text in self._texts:
            raw = text.encode()
            # Where a text begins in base64 depends on what stands before it.
            coded = [base64.b64encode(b" " * n + raw)[(n * 4 + 2) // 3 : -4] for n in range(3)]
            for form in (raw, raw.hex().encode(), quote(text).encode(), *coded):
                self._forms.append((text, form))
        self.longest = max(len(form) for _, form in self._forms)

    def in_bytes(self, content: bytes) -> set[str]:
        return {text for text, form in self._forms if form in content}

    def in_files(self, folder: Path) -> dict[str, set[str]]:
        """Name of a file below the folder → what was found in it."""
        found = {
            str(path): self.in_bytes(path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        return {name: texts for name, texts in found.items() if texts}

    def in_environments(self) -> dict[int, set[str]]:
        """Pid of a descendant of this process → what its environment and command line have."""
        found = {}
        for pid in _running():
            with suppress(OSError):
                for name in ("environ", "cmdline"):
                    if texts := self.in_bytes(Path(f"/proc/{pid}/{name}").read_bytes()):
                        found[pid] = texts
        return found

    def in_memory(self) -> dict[int, set[str]]:
        """Pid of a descendant of this process → what its memory has, in the raw form."""
        found: dict[int, set[str]] = {}
        for pid in _running():
            for chunk in _memory(pid, overlap_bytes=self.longest):
                if texts := {text for text in self._texts if text.encode() in chunk}:
                    found[pid] = found.get(pid, set()) | texts
        return found


def _running() -> list[int]:
    return [each.pid for each in descendants([os.getpid()])]


def _memory(pid: int, *, overlap_bytes: int) -> Iterator[bytes]:
    """The memory of a process in pieces, without what is only mapped from unchanged files."""
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights, _, _, inode, *_ = line.split()
            if "r" not in rights or (inode != "0" and "w" not in rights):
                continue
            start, end = (int(each, 16) for each in addresses.split("-"))
            for first, last in _used(pid, start, end):
                for at in range(first, last, _CHUNK_BYTES):
                    with suppress(OSError, ValueError, OverflowError):
                        memory.seek(at)
                        yield memory.read(min(_CHUNK_BYTES + overlap_bytes, last - at))


def _used(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a mapping that have pages: most of a thread's stack has none."""
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        pagemap.seek(start // _PAGE_BYTES * 8)
        pages = array("Q", pagemap.read((end - start) // _PAGE_BYTES * 8))
    at = start
    for is_used, run in itertools.groupby(pages, lambda page: page >> 62 != 0):
        size_bytes = sum(1 for _ in run) * _PAGE_BYTES
        if is_used:  # in memory, or swapped out
            yield at, at + size_bytes
        at += size_bytes


class RedisRecorder:
    """Everything that is sent to a Redis while the context is open, and what it holds then."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._seen: list[bytes] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "RedisRecorder":
        self._thread.start()
        wait_until(self._is_listening, what="MONITOR")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._is_listening()  # one more command, which ends the thread
        self._thread.join()

    @property
    def content(self) -> bytes:
        with self._server.client() as client:
            held = [repr((key, _value(client, key))).encode() for key in client.scan_iter()]
        return b"\n".join([*self._seen, *held])

    @property
    def num_messages(self) -> int:
        return sum(b"PUSH" in each.upper() for each in self._seen)

    def _listen(self) -> None:
        with redis.Redis(port=self._server.port) as client, client.monitor() as monitor:
            for command in monitor.listen():
                self._seen.append(str(command["command"]).encode())
                if self._is_over.is_set():
                    return

    def _is_listening(self) -> bool:
        with self._server.client() as client:
            client.ping()
        return bool(self._seen)


def _value(client: "redis.Redis", key: bytes) -> object:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"hash":
            return client.hgetall(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"set":
            return client.smembers(key)
        case other:
            raise AssertionError(f"{key!r} is a {other!r}: read it, too")


def core_limit_of(pid: int) -> tuple[str, str]:
    """The soft and the hard limit of a process's core dumps."""
    (line,) = (
        each
        for each in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if each.startswith("Max core file size")
    )
    soft, hard = line.removeprefix("Max core file size").split()[:2]
    return soft, hard
