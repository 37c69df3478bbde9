"""Downloads cache entries ahead of the training step, in the order of the sampler.

The attempt's disk space is limited: when it is full, entries that are not needed soon are deleted.
The training process keeps none of their files open, so a deleted one frees its space. To request a
missing entry, the process creates an empty file of that name in the folder ``wanted``; that entry
is fetched next. It is kept until the process has read it, which deletes the request then.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from services.processes.threads import wait_for_end
from services.trainer.failures import failure_of_attempt
from services.trainer.feed_order import FeedOrder
from services.trainer.lease import NotWantedError
from trainer_core.data.entry_files import entry_name, wanted_folder
from trainer_core.process.failure import Failure

_FETCHES: Final = 8
"""At the same time: one stream from S3 has 50 to 100 MB a second, a step may need more."""
_LOOK_EVERY_S: Final = 0.5
_UNREAD_S: Final = 1.0
"""A process that waits repeats its request 50 times a second; one that is older is forgotten."""
_END_S: Final = 2.0
"""For the fetches that are under way at the end."""
_RENEWED_PART: Final = 0.02
"""Of what is needed soon: where so much of it is used, or of its room is gone or new, it is made
again."""
_HEADER_BYTES: Final = 1 << 10
"""Of an entry's file, besides its tensors; it has less."""


class Fetcher(Protocol):
    """Where the entries come from; called in several threads."""

    def size_bytes(self, digest: str) -> int:
        """Size of an entry's tensors."""

    def fetch(self, digest: str) -> None:
        """Write the entry's file into the folder; it appears whole.

        It repeats while the store cannot be reached, and raises AttemptFailedError or
        NotWantedError.
        """


class _Held:
    """Entries in the folder, or on their way to it; sizes in bytes."""

    def __init__(self) -> None:
        self.present: dict[str, int] = {}
        self.arriving: dict[str, int] = {}
        self.total_bytes = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self.present or digest in self.arriving

    def expect(self, digest: str, size_bytes: int) -> None:
        self.arriving[digest] = size_bytes
        self.total_bytes += size_bytes

    def arrived(self, digest: str) -> None:
        self.present[digest] = self.arriving.pop(digest)

    def gone(self, digest: str) -> None:
        self.total_bytes -= self.present.pop(digest, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Soon:
    """What the folder should have."""

    digests: dict[str, None]
    """By first use."""
    missing: deque[str]
    """Those that were not there when this was made; taken from the left."""
    total_bytes: int
    is_all: bool
    """They are all that the run still needs; else the room ends there."""
    step: int
    room_bytes: int
    """When this was made."""


class Feeder:
    """Fills a folder with entries, in threads of its own."""

    def __init__(
        self,
        order: FeedOrder,
        fetcher: Fetcher,
        folder: Path,
        *,
        limit_bytes: int,
        from_step: int,
        other_bytes: Callable[[], int] = lambda: 0,
        is_uploading: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            folder: where ``fetcher`` writes; nothing else does.
            limit_bytes: for the folder and what ``other_bytes`` counts; one entry is always
                allowed, but for the time of an upload.
            other_bytes: disk space that the attempt takes besides the folder.
            is_uploading: whether a part of it becomes free without a further step.
        """
        self._order = order
        self._fetcher = fetcher
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._step = from_step
        self._requested: list[str] = []
        """The oldest first: none can be kept waiting by later ones."""
        self._read: list[str] = []
        """Requests that were served since the last step, the newest first."""
        self._read_at_step = from_step
        self._other_bytes = other_bytes
        self._is_uploading = is_uploading
        self._held = _Held()
        self._fetches: dict[Future[None], str] = {}
        """Those under way, and their entries."""
        self._soon: _Soon | None = None
        self._wanted_folder = wanted_folder(folder)
        self._wanted_folder.mkdir(exist_ok=True)
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
        context = copy_context()  # the thread's log lines name the run
        self._thread = threading.Thread(
            target=context.run, args=(self._feed_until_closed,), name="feeder", daemon=True
        )
        self.failure: Failure | None = None
        """Why the training cannot continue; None without an error."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._changed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        # The folder is deleted next: a file that appears meanwhile would stay. A hanging store is
        # not waited for.
        wait_for_end(self._thread, _END_S)
        if not self._thread.is_alive():
            wait(self._fetches, timeout=_END_S)

    @property
    def is_waited_for(self) -> bool:
        """Whether the training process waits for an entry that is not there yet."""
        return any(
            not (self._folder / entry_name(path.name)).exists()
            for path in self._wanted_folder.iterdir()
        )

    def reached(self, step: int) -> None:
        """Report that training has completed this optimizer step."""
        if step > self._step:
            self._step = step
            self._changed.set()

    def _feed_until_closed(self) -> None:
        try:
            while not self._closing.is_set():
                self._changed.clear()
                self._take_finished()
                self._note_wanted()
                for digest in self._next_fetches(_FETCHES - len(self._fetches)):
                    future = self._pool.submit(copy_context().run, self._fetcher.fetch, digest)
                    self._fetches[future] = digest
                    future.add_done_callback(lambda _: self._changed.set())
                self._changed.wait(_LOOK_EVERY_S)
        except NotWantedError:
            pass  # the attempt finds out from the lease
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop
            # At the end of the attempt its folder is deleted under a download.
            if not self._closing.is_set():
                self.failure = failure_of_attempt(error)

    def _take_finished(self) -> None:
        for future in [each for each in self._fetches if each.done()]:
            digest = self._fetches.pop(future)
            future.result()
            self._held.arrived(digest)

    def _next_fetches(self, most: int) -> list[str]:
        """Entries to fetch next, which count as arriving; deletes others to make room."""
        held, chosen = self._held, list[str]()
        room_bytes = self._limit_bytes - self._other_bytes()
        soon = self._what_is_needed_soon(room_bytes)
        self._make_room(room_bytes, soon)
        while soon.missing and len(chosen) < most:
            digest = soon.missing[0]
            if digest not in held:
                size_bytes = self._size_of(digest)
                # One entry is always allowed: training could not go on without it.
                is_first = digest == next(iter(soon.digests)) and not held.arriving
                if not self._make_room(room_bytes - size_bytes, soon) and (
                    not is_first or self._is_uploading()
                ):
                    break
                held.expect(digest, size_bytes)
                chosen.append(digest)
            soon.missing.popleft()
        return chosen

    def _what_is_needed_soon(self, room_bytes: int) -> _Soon:
        """Entries by first use, within the room, which changes; at least one."""
        soon = self._soon
        if soon is None or self._is_outdated(soon, room_bytes):
            soon = self._soon = self._made(room_bytes)
        return soon

    def _is_outdated(self, soon: _Soon, room_bytes: int) -> bool:
        """Whether a part of it is used, or the room differs, so that it is worth the time to make.

        With 100,000 entries that is 0.2 s.
        """
        if soon.is_all:
            return room_bytes < soon.total_bytes
        used = (self._step - soon.step) * self._order.entries_a_step
        differs_bytes = abs(room_bytes - soon.room_bytes)
        return (
            used >= _RENEWED_PART * len(soon.digests)
            or differs_bytes > _RENEWED_PART * max(0, soon.room_bytes)
            or self._held.total_bytes > room_bytes
        )

    def _made(self, room_bytes: int) -> _Soon:
        digests: dict[str, None] = {}
        total_bytes, is_all = 0, True
        for digest in chain(self._requested, self._read, self._order.digests_from(self._step)):
            if digest in digests:
                continue
            size_bytes = self._size_of(digest)
            if digests and total_bytes + size_bytes > room_bytes:
                is_all = False
                break
            total_bytes += size_bytes
            digests[digest] = None
        missing = deque(digest for digest in digests if digest not in self._held)
        return _Soon(
            digests=digests,
            missing=missing,
            total_bytes=total_bytes,
            is_all=is_all,
            step=self._step,
            room_bytes=room_bytes,
        )

    def _make_room(self, limit_bytes: int, soon: _Soon) -> bool:
        """Delete entries that are not needed soon; whether the others are within the limit."""
        held = self._held
        if held.total_bytes > limit_bytes:
            for digest in [each for each in held.present if each not in soon.digests]:
                (self._folder / entry_name(digest)).unlink(missing_ok=True)
                held.gone(digest)
                if held.total_bytes <= limit_bytes:
                    break
        return held.total_bytes <= limit_bytes

    def _size_of(self, digest: str) -> int:
        return self._fetcher.size_bytes(digest) + _HEADER_BYTES

    def _note_wanted(self) -> None:
        """Read the requests; those that were served hold until the next step, too."""
        before = self._requested, self._read
        self._forget_unrepeated()
        now = {path.name for path in self._wanted_folder.iterdir() if self._order.has(path.name)}
        for digest in now:
            if (
                digest in self._held.present and not (self._folder / entry_name(digest)).exists()
            ):  # it was damaged, and the process deleted it
                self._held.gone(digest)
                self._soon = None
        served = [digest for digest in self._requested if digest not in now]
        self._read = served + [each for each in self._read if each not in now]
        if self._read_at_step != self._step:
            self._read, self._read_at_step = [], self._step
        old = [digest for digest in self._requested if digest in now]
        self._requested = old + sorted(now.difference(old))
        if before != (self._requested, self._read):
            self._soon = None

    def _forget_unrepeated(self) -> None:
        """Delete requests that nobody repeats, of entries that are there."""
        for request in list(self._wanted_folder.iterdir()):
            with suppress(FileNotFoundError):  # the entry was read just now
                is_repeated = time.time() - request.stat().st_mtime < _UNREAD_S
                if request.name in self._held.present and not is_repeated:
                    request.unlink()
                    self._requested = [each for each in self._requested if each != request.name]
