"""Downloads cache shards ahead of the training step, in the order of the sampler.

The attempt's disk space is limited: when it is full, shards that are not needed soon are deleted.
The training process maps the files into memory, so deleting one that it reads is harmless on Linux,
but frees its space only when it is closed. To request a missing shard, the process creates an empty
file ``<digest>.wanted``; that shard is fetched next.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.ledger import CachedShard
from services.trainer.failures import failure_of_attempt
from services.trainer.lease import NotWantedError
from trainer_core.data.index import DataIndex, Sample
from trainer_core.data.sampler import Sampler
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_LOOKAHEAD_MICRO_BATCHES: Final = 2000
_LOOK_EVERY_S: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedOrder:
    """The order in which a run needs its shards."""

    index: DataIndex
    sampler: Sampler
    micro_batches_per_step: int

    def digests_from(self, step: int) -> Iterator[str]:
        """Digests of all shards, each once, by first use after ``step`` steps."""
        seen: set[int] = set()
        for position in self._positions_from(step):
            if position not in seen:
                seen.add(position)
                yield self.index.shards[position].digest

    def _positions_from(self, step: int) -> Iterator[int]:
        for ref in self.index.prompts.values():
            yield ref.shard
        if step == 0:
            # The validation before the first step uses held-out samples.
            yield from self._held_out()
        first = step * self.micro_batches_per_step
        for i in range(first, first + _LOOKAHEAD_MICRO_BATCHES):
            batch = self.sampler.micro_batch(i)
            for position, caption in zip(batch.samples, batch.captions, strict=True):
                sample = self.index.samples[position]
                yield from _pictures_of(sample)
                yield sample.texts[caption].shard
        yield from self._held_out()
        yield from range(len(self.index.shards))

    def _held_out(self) -> Iterator[int]:
        for sample in self.index.samples:
            if sample.held_out:
                yield from _pictures_of(sample)
                yield from (text.shard for text in sample.texts)


def _pictures_of(sample: Sample) -> Iterator[int]:
    yield sample.latents.shard
    if sample.mask is not None:
        yield sample.mask.shard


class Feeder:
    """Fills ``folder`` with ``<digest>.safetensors`` in a thread of its own."""

    def __init__(
        self,
        order: FeedOrder,
        shards: Sequence[CachedShard],
        folder: Path,
        *,
        limit_bytes: int,
        from_step: int,
        fetch: Callable[[CachedShard, Path], None],
        other_bytes: Callable[[], int] = lambda: 0,
        is_uploading: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            shards: all shards of the run, in any order.
            limit_bytes: for the folder and what ``other_bytes`` counts; one shard is always
                allowed, but for the time of an upload.
            fetch: downloads to a path and checks size and SHA-256. It retries while the store
                cannot be reached, and raises AttemptFailedError or NotWantedError.
            other_bytes: disk space that the attempt takes besides the folder.
            is_uploading: whether a part of it becomes free without a further step.
        """
        self._order = order
        self._shards: Mapping[str, CachedShard] = {shard.digest: shard for shard in shards}
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._step = from_step
        self._wanted: list[str] = []
        self._wanted_at_step = from_step
        self._fetch = fetch
        self._other_bytes = other_bytes
        self._is_uploading = is_uploading
        self._all_bytes = sum(shard.size_bytes for shard in shards)
        self._changed = threading.Event()
        self._closing = threading.Event()
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

    @property
    def is_waited_for(self) -> bool:
        """Whether the training process waits for a shard that is not there yet."""
        return any(
            not path.with_suffix(".safetensors").exists() for path in self._folder.glob("*.wanted")
        )

    def reached(self, step: int) -> None:
        """Report that training has completed this optimizer step."""
        if step > self._step:
            self._step = step
            self._changed.set()

    def _feed_until_closed(self) -> None:
        try:
            while not self._closing.is_set():
                shard = self._next_missing()
                if shard is None:
                    self._changed.wait(_LOOK_EVERY_S)
                    self._changed.clear()
                else:
                    self._fetch_to_folder(shard)
        except NotWantedError:
            pass  # the attempt finds out from the lease
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop
            # At the end of the attempt its folder is deleted under a download.
            if not self._closing.is_set():
                self.failure = failure_of_attempt(error)

    def _next_missing(self) -> CachedShard | None:
        """The shard to fetch next, None where none is missing; deletes others to make room."""
        present = {path.stem for path in self._folder.glob("*.safetensors")}
        self._note_wanted(present)
        room_bytes = self._limit_bytes - self._other_bytes()
        if len(present) == len(self._shards) and self._all_bytes <= room_bytes:
            return None
        soon = self._soon(room_bytes)
        missing = next((self._shards[digest] for digest in soon if digest not in present), None)
        needed_bytes = 0 if missing is None else missing.size_bytes
        free_bytes = self._make_room(present, set(soon), room_bytes - needed_bytes)
        return None if free_bytes < 0 and self._is_uploading() else missing

    def _note_wanted(self, present: set[str]) -> None:
        """Read the requests (``.wanted``); they hold until the next step, the newest first."""
        if self._wanted_at_step != self._step:
            self._wanted, self._wanted_at_step = [], self._step
        for path in self._folder.glob("*.wanted"):
            if path.stem in self._shards and path.stem not in self._wanted:
                self._wanted.insert(0, path.stem)
            if path.stem in present:
                path.unlink()

    def _soon(self, room_bytes: int) -> list[str]:
        """Digests that the folder should hold, by first use, within the room; at least one."""
        soon: dict[str, None] = {}
        for digest in chain(self._wanted, self._order.digests_from(self._step)):
            if digest in soon:
                continue
            room_bytes -= self._shards[digest].size_bytes
            if room_bytes < 0 and soon:
                break
            soon[digest] = None
        return list(soon)

    def _make_room(self, present: set[str], soon: set[str], room_bytes: int) -> int:
        """Delete shards that are not needed soon; the room that is left, below 0 if too little."""
        free_bytes = room_bytes - sum(self._shards[digest].size_bytes for digest in present)
        for digest in present - soon:
            if free_bytes >= 0:
                break
            (self._folder / f"{digest}.safetensors").unlink(missing_ok=True)
            free_bytes += self._shards[digest].size_bytes
            log.debug("shard_evicted", digest=digest)
        return free_bytes

    def _fetch_to_folder(self, shard: CachedShard) -> None:
        draft = self._folder / f"{shard.digest}.part"
        self._fetch(shard, draft)
        draft.replace(self._folder / f"{shard.digest}.safetensors")
        log.debug("shard_fetched", digest=shard.digest, size_bytes=shard.size_bytes)
