"""Downloads cache entries ahead of the training step, in the order of the sampler.

The attempt's disk space is limited: when it is full, entries that are not needed soon are deleted.
The training process keeps none of their files open, so a deleted one frees its space. To request a
missing entry, the process creates an empty file of that name in the folder ``wanted``; that entry
is fetched next.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from services.trainer.failures import failure_of_attempt
from services.trainer.feed_order import FeedOrder
from services.trainer.lease import NotWantedError
from trainer_core.data.entry_files import entry_name, wanted_folder
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_FETCHES: Final = 8
"""At the same time: one stream from S3 has 50 to 100 MB a second, a step may need more."""
_LOOK_EVERY_S: Final = 0.5
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


@dataclass(slots=True)
class _Folder:
    """The entries in the folder, and those that are on their way; sizes in bytes."""

    present: dict[str, int]
    arriving: dict[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(self.present.values()) + sum(self.arriving.values())

    def has(self, digest: str) -> bool:
        return digest in self.present or digest in self.arriving


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
        self._wanted: list[str] = []
        self._wanted_at_step = from_step
        self._other_bytes = other_bytes
        self._is_uploading = is_uploading
        self._entries = _Folder({}, {})
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
        fetches: dict[Future[None], str] = {}
        try:
            while not self._closing.is_set():
                self._changed.clear()
                self._take_finished(fetches)
                self._note_wanted()
                for digest in self._next_fetches(_FETCHES - len(fetches)):
                    future = self._pool.submit(copy_context().run, self._fetcher.fetch, digest)
                    fetches[future] = digest
                    future.add_done_callback(lambda _: self._changed.set())
                self._changed.wait(_LOOK_EVERY_S)
        except NotWantedError:
            pass  # the attempt finds out from the lease
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop
            # At the end of the attempt its folder is deleted under a download.
            if not self._closing.is_set():
                self.failure = failure_of_attempt(error)

    def _take_finished(self, fetches: dict[Future[None], str]) -> None:
        for future in [each for each in fetches if each.done()]:
            digest = fetches.pop(future)
            size_bytes = self._entries.arriving.pop(digest)
            future.result()
            self._entries.present[digest] = size_bytes
            log.debug("entry_fetched", digest=digest, size_bytes=size_bytes)

    def _next_fetches(self, most: int) -> list[str]:
        """Entries to fetch next, which count as arriving; deletes others to make room."""
        entries, chosen = self._entries, list[str]()
        room_bytes = self._limit_bytes - self._other_bytes()
        soon = self._soon(room_bytes)
        for digest in soon:
            if len(chosen) >= most:
                break
            if entries.has(digest):
                continue
            size_bytes = self._size_of(digest)
            # One entry at a time is always allowed: training could not go on without it.
            may_exceed = digest == next(iter(soon)) and not entries.arriving
            if not self._make_room(room_bytes - size_bytes, soon) and (
                not may_exceed or self._is_uploading()
            ):
                break
            entries.arriving[digest] = size_bytes
            chosen.append(digest)
        if not chosen:
            self._make_room(room_bytes, soon)
        return chosen

    def _soon(self, room_bytes: int) -> dict[str, None]:
        """Digests that the folder should hold, by first use, within the room; at least one."""
        soon: dict[str, None] = {}
        for digest in chain(self._wanted, self._order.digests_from(self._step)):
            if digest in soon:
                continue
            room_bytes -= self._size_of(digest)
            if room_bytes < 0 and soon:
                break
            soon[digest] = None
        return soon

    def _make_room(self, limit_bytes: int, soon: dict[str, None]) -> bool:
        """Delete entries that are not needed soon; whether the others are within the limit."""
        entries = self._entries
        taken_bytes = entries.size_bytes
        if taken_bytes > limit_bytes:
            for digest in [each for each in entries.present if each not in soon]:
                (self._folder / entry_name(digest)).unlink(missing_ok=True)
                taken_bytes -= entries.present.pop(digest)
                log.debug("entry_evicted", digest=digest)
                if taken_bytes <= limit_bytes:
                    break
        return taken_bytes <= limit_bytes

    def _size_of(self, digest: str) -> int:
        return self._fetcher.size_bytes(digest) + _HEADER_BYTES

    def _note_wanted(self) -> None:
        """Read the requests; they hold until the next step, the newest first."""
        if self._wanted_at_step != self._step:
            self._wanted, self._wanted_at_step = [], self._step
        for path in self._wanted_folder.iterdir():
            digest = path.name
            if not (self._folder / entry_name(digest)).exists():
                self._entries.present.pop(digest, None)  # damaged, so the process deleted it
            if digest not in self._wanted:
                self._wanted.insert(0, digest)
            if digest in self._entries.present:
                path.unlink(missing_ok=True)
