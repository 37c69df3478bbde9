"""Entries are fetched ahead of the step, within the limit of the disk; a requested one is next."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.failures import AttemptFailedError
from services.trainer.feed_order import FeedOrder
from services.trainer.feeder import Feeder
from tests.support.feeding import index_of, latents_at, order_of, sampler_in
from tests.support.waiting import wait_until
from trainer_core.data.entries import EntryFolder, encoded, write_entry
from trainer_core.data.entry_files import entry_name, wanted_folder
from trainer_core.data.index import DataIndex
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

SIZE_BYTES = 100
ROOM_BYTES = SIZE_BYTES + 1024
"""What an entry of that size counts in the folder: its file has a header."""
FETCHES = 8
"""At the same time."""


class Source:
    """Writes the file of an entry; records which were asked for."""

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self.sizes = sizes or {}
        self.asked: list[str] = []

    def size_bytes(self, digest: str) -> int:
        return self.sizes.get(digest, SIZE_BYTES)

    def fetch(self, digest: str) -> None:
        self.asked.append(digest)
        draft = self.folder / f"{digest}.part"
        draft.write_bytes(b"x" * self.size_bytes(digest))
        draft.replace(self.folder / entry_name(digest))


class HeldSource(Source):
    """Each fetch ends when the test lets it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may_end = threading.Semaphore(0)

    def fetch(self, digest: str) -> None:
        self.asked.append(digest)
        self.may_end.acquire(timeout=30)
        self.asked.remove(digest)
        super().fetch(digest)


class SlowSource(Source):
    """Writes in pieces, and measures after each how much the folder has on disk."""

    most_bytes = 0

    def fetch(self, digest: str) -> None:
        draft = self.folder / f"{digest}.part"
        with draft.open("wb") as file:
            for _ in range(4):
                file.write(b"x" * (self.size_bytes(digest) // 4))
                file.flush()
                self.most_bytes = max(self.most_bytes, on_disk(self.folder))
                time.sleep(0.001)
        draft.replace(self.folder / entry_name(digest))


def on_disk(folder: Path) -> int:
    size_bytes = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # deleted or renamed meanwhile
            size_bytes += path.stat().st_size if path.is_file() else 0
    return size_bytes


def feeder_of(index: DataIndex, source: Source, limit_bytes: int, **disk: Any) -> Feeder:
    return Feeder(
        order_of(index), source, source.folder, limit_bytes=limit_bytes, from_step=0, **disk
    )


def held(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def ask_for(folder: Path, digest: str) -> None:
    """As the training process does."""
    (wanted_folder(folder) / digest).touch()


def requests(folder: Path) -> list[str]:
    return [path.name for path in wanted_folder(folder).iterdir()]


def test_nothing_is_needed_for_steps_after_the_last_one(tmp_path: Path) -> None:
    index = index_of(40)
    sampler = sampler_in(index)
    order = FeedOrder(index, sampler, micro_batches_per_step=2, last_step=3)
    used = {index.entries[n].digest for i in range(6) for n in sampler.micro_batch(i).samples}
    prompt = index.entries[40].digest
    source = Source(tmp_path)

    assert set(order.digests_from(0)) == used | {prompt}
    assert set(order.digests_from(3)) == {prompt}
    order = FeedOrder(index, sampler, micro_batches_per_step=2, last_step=3)
    with Feeder(order, source, tmp_path, limit_bytes=1 << 20, from_step=0) as feeder:
        wait_until(lambda: held(tmp_path) == used | {prompt}, what="them", deadline_s=10)
        for step in range(1, 4):
            feeder.reached(step)
        time.sleep(0.7)  # the feeder has looked again by then
        other = next(e.digest for e in index.entries if e.digest not in held(tmp_path))
        ask_for(tmp_path, other)  # whatever it is for
        wait_until(lambda: other in held(tmp_path), what="the wanted entry", deadline_s=10)
    assert len(source.asked) == len(used) + 2


def test_what_is_needed_soon_is_made_again_only_as_it_is_used(tmp_path: Path) -> None:
    index = index_of(400)
    made: list[int] = []

    class Watched(FeedOrder):
        def digests_from(self, step: int) -> Iterator[str]:
            made.append(step)
            return super().digests_from(step)

    sampler = sampler_in(index)
    order = Watched(index, sampler, micro_batches_per_step=1)
    with Feeder(order, Source(tmp_path), tmp_path, limit_bytes=1 << 20, from_step=0) as feeder:
        wait_until(lambda: len(held(tmp_path)) == 401, what="all entries", deadline_s=30)
        for step in range(1, 20):
            feeder.reached(step)
            time.sleep(0.01)  # for each step to be seen by itself
    assert len(made) == 1  # there is room for all
    made.clear()
    part = tmp_path / "part"
    part.mkdir()
    order = Watched(index, sampler, micro_batches_per_step=1)
    with Feeder(order, Source(part), part, limit_bytes=100 * ROOM_BYTES, from_step=0) as feeder:
        wait_until(lambda: len(held(part)) == 100, what="a full folder", deadline_s=30)
        before = len(made)
        for step in range(1, 9):
            feeder.reached(step)
            soon = {index.entries[n].digest for n in sampler.micro_batch(step + 90).samples}
            wait_until(lambda soon=soon: soon <= held(part), what="entries ahead", deadline_s=10)
    assert len(made) - before <= 9


def test_all_entries_are_fetched_in_order_several_at_a_time(tmp_path: Path) -> None:
    index, source = index_of(20), HeldSource(tmp_path)
    order = list(order_of(index).digests_from(0))
    with feeder_of(index, source, 1 << 20):
        for number in range(13):
            wait_until(
                lambda: set(source.asked) | held(tmp_path) == set(order[: FETCHES + number]),  # noqa: B023 - called at once
                what=f"{number} fetched, and {FETCHES} under way",
                deadline_s=10,
            )
            source.may_end.release()
        source.may_end.release(FETCHES)
        wait_until(lambda: len(held(tmp_path)) == 21, what="all entries", deadline_s=10)


def test_the_folder_stays_within_its_limit_and_follows_the_step(tmp_path: Path) -> None:
    index = index_of(40)
    with feeder_of(index, Source(tmp_path), 5 * ROOM_BYTES) as feeder:
        for step in range(0, 40, 2):
            feeder.reached(step)
            needed = latents_at(index, step)
            wait_until(lambda: needed in held(tmp_path), what=f"step {step}", deadline_s=10)  # noqa: B023 - called at once
            assert len(held(tmp_path)) <= 5


@pytest.mark.parametrize("seed", range(3))
def test_the_disk_never_has_more_than_the_limit(tmp_path: Path, seed: int) -> None:
    """Entries of very different sizes, several at a time, and requests out of order."""
    choices = random.Random(seed)
    index = index_of(30)
    sizes = {each.digest: choices.choice([4, 400, 4_000, 40_000]) for each in index.entries}
    source = SlowSource(tmp_path, sizes)
    limit_bytes = 100_000
    with feeder_of(index, source, limit_bytes) as feeder:
        for step in range(60):
            feeder.reached(step)
            needed = [latents_at(index, step)]
            if step % 7 == 0:
                needed.append(choices.choice(index.entries).digest)
            for digest in needed:
                while digest not in held(tmp_path):
                    ask_for(tmp_path, digest)
                    assert feeder.failure is None
                    time.sleep(0.002)
                source.most_bytes = max(source.most_bytes, on_disk(tmp_path))
    assert 40_000 < source.most_bytes <= limit_bytes


def test_an_entry_that_is_larger_than_the_limit_is_fetched_alone(tmp_path: Path) -> None:
    index = index_of(6)
    large = latents_at(index, 0)
    source = SlowSource(tmp_path, {large: 50_000})
    with feeder_of(index, source, 3 * ROOM_BYTES) as feeder:
        ask_for(tmp_path, large)
        wait_until(lambda: held(tmp_path) == {large}, what="the large one", deadline_s=10)
        feeder.reached(1)
        following = latents_at(index, 1)
        wait_until(lambda: following in held(tmp_path), what="the next one", deadline_s=10)
        assert large not in held(tmp_path)


def test_entries_make_room_for_what_else_the_attempt_stores(tmp_path: Path) -> None:
    others: list[int] = []
    feeder = feeder_of(
        index_of(40), Source(tmp_path), 9 * ROOM_BYTES, other_bytes=lambda: sum(others)
    )
    with feeder:
        wait_until(lambda: len(held(tmp_path)) == 9, what="a full folder", deadline_s=10)
        others.append(6 * ROOM_BYTES)
        feeder.reached(1)
        wait_until(lambda: len(held(tmp_path)) == 3, what="room for it", deadline_s=10)


def test_an_entry_waits_for_the_upload_that_will_free_its_room(tmp_path: Path) -> None:
    others, uploading = [9 * ROOM_BYTES], [True]
    feeder = feeder_of(
        index_of(40),
        Source(tmp_path),
        9 * ROOM_BYTES,
        other_bytes=lambda: sum(others),
        is_uploading=lambda: bool(uploading),
    )
    with feeder:
        time.sleep(0.3)  # several entries come in this time, if it does not wait
        assert not held(tmp_path)
        uploading.clear()  # nothing will become free: training must not wait forever
        wait_until(lambda: len(held(tmp_path)) == 1, what="one entry", deadline_s=10)
        others.clear()
        wait_until(lambda: len(held(tmp_path)) == 9, what="a full folder", deadline_s=10)


def test_a_requested_entry_is_fetched_next(tmp_path: Path) -> None:
    index = index_of(40)
    with feeder_of(index, Source(tmp_path), 5 * ROOM_BYTES):
        wait_until(lambda: len(held(tmp_path)) == 5, what="a full folder", deadline_s=10)
        missing = next(e.digest for e in index.entries if e.digest not in held(tmp_path))

        def has_the_missing() -> bool:
            ask_for(tmp_path, missing)  # again and again: else the request is forgotten
            return missing in held(tmp_path)

        wait_until(has_the_missing, what="the wanted entry", deadline_s=10)
        wait_until(lambda: not requests(tmp_path), what="an answered request", deadline_s=10)
        assert len(held(tmp_path)) <= 5


def test_an_entry_that_the_process_deleted_as_damaged_is_fetched_again(tmp_path: Path) -> None:
    index, source = index_of(10), Source(tmp_path)
    damaged = index.entries[3].digest
    with feeder_of(index, source, 1 << 20):
        wait_until(lambda: len(held(tmp_path)) == 11, what="all entries", deadline_s=10)
        for times in (2, 3, 4):
            (tmp_path / entry_name(damaged)).unlink()
            ask_for(tmp_path, damaged)
            wait_until(lambda: damaged in held(tmp_path), what="it again", deadline_s=10)
            if times == 2:  # else it is damaged again while it is still asked for
                wait_until(lambda: not requests(tmp_path), what="an answer", deadline_s=10)
            assert source.asked.count(damaged) == times


def failing(error: Exception) -> Callable[[str], None]:
    def fetch(digest: str) -> None:
        raise error

    return fetch


def test_an_entry_that_cannot_be_fetched_is_reported(tmp_path: Path) -> None:
    failure = Failure(code="shard_corrupt", category=Category.INFRA, message="m", retryable=True)
    source = Source(tmp_path)
    source.fetch = failing(AttemptFailedError(failure))  # type: ignore[method-assign]
    with feeder_of(index_of(2), source, 1 << 20) as feeder:
        wait_until(lambda: feeder.failure == failure, what="the failure", deadline_s=10)


def test_an_error_inside_the_feeder_is_reported_too(tmp_path: Path) -> None:
    source = Source(tmp_path)
    source.size_bytes = {}.__getitem__  # type: ignore[method-assign]
    with feeder_of(index_of(2), source, 1 << 20) as feeder:
        wait_until(lambda: feeder.failure is not None, what="the failure", deadline_s=10)


def test_nothing_is_waited_for_once_each_request_was_served(tmp_path: Path) -> None:
    index = index_of(8)
    last, last_but_one = (index.entries[n].digest for n in (7, 6))
    feeder = feeder_of(index, Source(tmp_path), ROOM_BYTES)
    ask_for(tmp_path, last)
    assert feeder.is_waited_for

    def has_only_the_second() -> bool:
        ask_for(tmp_path, last_but_one)  # again and again: else the request is forgotten
        return held(tmp_path) == {last_but_one}

    with feeder:
        wait_until(lambda: not feeder.is_waited_for, what="the first entry", deadline_s=10)
        wait_until(has_only_the_second, what="the second", deadline_s=10)
        # The first one has made room for it, and no step has been taken since.
        assert not feeder.is_waited_for


class TextSource(Source):
    """Writes entries that can be read."""

    entry = encoded(
        "text",
        {"t5": torch.ones(1, 2, 4), "llama": torch.ones(1, 1, 2, 4), "pooled": torch.ones(1, 4)},
    )

    def size_bytes(self, digest: str) -> int:
        return self.entry.size_bytes

    def fetch(self, digest: str) -> None:
        self.asked.append(digest)
        write_entry(self.folder / entry_name(digest), self.entry)


def read_in_turn(folder: Path, digests: Sequence[str]) -> int:
    """As a rank does; returns how many it has read."""
    entries = EntryFolder(folder, wait_s=20, while_waiting=lambda digest: ask_for(folder, digest))
    return sum(bool(entries.read(digest, "text")) for digest in digests)


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_go_on_where_the_room_has_one_entry_only(tmp_path: Path, ranks: int) -> None:
    """No step ends before each has read its batch, which may have an entry several times."""
    index = index_of(3 * ranks)
    batches = [[index.entries[3 * rank + n].digest for n in (0, 1, 0, 2)] for rank in range(ranks)]
    with (
        feeder_of(index, TextSource(tmp_path), 1),
        ThreadPoolExecutor(ranks) as pool,
    ):
        read = pool.map(read_in_turn, [tmp_path] * ranks, batches)
        assert list(read) == [4] * ranks
