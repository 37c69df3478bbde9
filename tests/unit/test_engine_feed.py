"""Batches that a thread builds ahead of their step."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.jobs import make_job
from trainer_core.data.entries import EntryFolder
from trainer_core.data.entry_files import entry_name, wanted_folder
from trainer_core.data.sampler import MicroBatch
from trainer_core.engine.feed import Feed
from trainer_core.engine.loop import take_steps
from trainer_core.engine.setup import LoadedRun, load_run
from trainer_core.engine.state import Run, TrainingState, open_run
from trainer_core.engine.throughput import Throughput
from trainer_core.errors import ShardCorruptError, ShardMissingError
from trainer_core.process.control import Control, StopRequestedError
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.job import Job

STEPS, ACCUMULATION = 6, 2


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("entries")


@pytest.fixture(scope="module")
def job(tiny_folder: Path, entries: Path) -> dict[str, Any]:
    return make_job(
        tiny_folder,
        entries,
        entries,
        edge_px=64,
        count=4,
        train_batch_size=1,
        max_train_steps=STEPS,
        gradient_accumulation_steps=ACCUMULATION,
    )


@pytest.fixture(scope="module")
def loaded(job: dict[str, Any]) -> LoadedRun:
    return load_run(Job.model_validate(job), Control(None))


@pytest.fixture
def run(job: dict[str, Any], loaded: LoadedRun, tmp_path: Path) -> Iterator[Run]:
    """A run whose entries lie in a folder of its own."""
    for path in Path(job["shards_dir"]).glob("*.safetensors"):
        (tmp_path / path.name).hardlink_to(path)
    own = job | {"shards_dir": str(tmp_path), "output_dir": str(tmp_path / "output")}
    with EventWriter(tmp_path / "events.jsonl") as events:
        here = replace(loaded, entries=EntryFolder(tmp_path, wait_s=30))
        yield open_run(Job.model_validate(own), here, events, Control(None))
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


def latents_of(run: Run, i: int) -> Path:
    """The file that micro-batch i reads its image from."""
    (sample,) = run.sampler.micro_batch(i).samples
    index = run.job.index
    digest = index.entries[index.samples[sample].latents].digest
    return Path(run.job.shards_dir) / entry_name(digest)


def wait_until_wanted(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not (wanted_folder(file.parent) / file.stem).exists():
        assert time.monotonic() < deadline, "nothing asks for the entry"
        time.sleep(0.01)


@pytest.mark.parametrize("after_step", [0, 4])
def test_every_batch_comes_once_and_in_order(run: Run, after_step: int) -> None:
    first = after_step * ACCUMULATION
    wanted = [
        run.loaded.batches.training(run.sampler.micro_batch(i)).with_whole_text()
        for i in range(first, STEPS * ACCUMULATION)
    ]

    with Feed(run, after_step) as feed:
        found = [batch for _ in range(after_step, STEPS) for batch in feed.take(ACCUMULATION)]

    assert len(found) == len(wanted)
    for batch, other in zip(found, wanted, strict=True):
        pairs = zip(batch.tensors(), other.tensors(), strict=True)
        assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in pairs)


def test_a_block_that_is_left_early_ends_the_thread(run: Run) -> None:
    with Feed(run, 0) as feed:
        next(feed.take(1))


def test_a_block_that_is_left_while_an_entry_is_awaited_ends_the_thread(run: Run) -> None:
    missing = latents_of(run, 0)
    missing.unlink()

    with Feed(run, 0):
        wait_until_wanted(missing)


def test_a_stop_ends_the_wait_for_an_entry(run: Run) -> None:
    latents_of(run, 0).unlink()

    with Feed(run, 0) as feed:
        run.control.request_stop()
        with pytest.raises(StopRequestedError):
            next(feed.take(1))


class OneOfTwo:
    """A rank beside another one, each in a thread of its own."""

    ranks = 2

    def __init__(self, rank: int, numbers: list[int], meeting: threading.Barrier) -> None:
        self.rank = rank
        self._numbers = numbers
        self._meeting = meeting

    def max_across_ranks(self, number: int) -> int:
        self._numbers[self.rank] = number
        self._meeting.wait(30)
        largest = max(self._numbers)
        self._meeting.wait(30)
        return largest


@pytest.mark.parametrize("is_stopped", [True, False])
def test_ranks_wait_for_a_step_together(run: Run, *, is_stopped: bool) -> None:
    """Rank 1 lacks an entry, and alone learns of the stop."""
    missing = latents_of(run, 1)
    content = missing.read_bytes()
    missing.unlink()
    numbers, meeting = [0, 0], threading.Barrier(2)
    backends = [OneOfTwo(rank, numbers, meeting) for rank in range(2)]
    ranks = [
        replace(run, loaded=replace(run.loaded, backend=each), control=Control(None))
        for each in backends
    ]

    def stops(rank: Run) -> bool:
        with Feed(rank, 0) as feed:
            try:
                feed.await_step()
            except StopRequestedError:
                return True
            next(feed.take(1))
        return False

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(stops, ranks)
        wait_until_wanted(missing)
        if is_stopped:
            ranks[1].control.request_stop()
        else:
            missing.with_suffix(".new").write_bytes(content)
            missing.with_suffix(".new").rename(missing)
        assert list(answers) == [is_stopped] * 2


class UntilSampler:
    """The run's sampler, up to a micro-batch whose data is not there."""

    def __init__(self, run: Run, end: int) -> None:
        self._sampler = run.sampler
        self.timeline = run.sampler.timeline
        self._end = end

    def micro_batch(self, i: int) -> MicroBatch:
        if i == self._end:
            raise ShardMissingError(f"no data for micro-batch {i}")
        return self._sampler.micro_batch(i)


@pytest.mark.parametrize("end", [0, 5, 6])
def test_an_error_fails_the_step_that_needs_the_batch(run: Run, end: int) -> None:
    ending = replace(run, sampler=UntilSampler(run, end))
    state = TrainingState(throughput=Throughput(STEPS))
    seen: list[Event] = []
    run.events.listen("test", seen.append)

    with pytest.raises(ShardMissingError, match=f"micro-batch {end}$"), Feed(ending, 0) as feed:
        take_steps(run, state, feed)

    assert [e.step for e in seen if e.name == "step"] == list(range(1, end // ACCUMULATION + 1))


def test_a_file_that_is_no_entry_is_named(run: Run) -> None:
    path = latents_of(run, 0)
    path.unlink()
    path.write_bytes(b"not an entry")

    with Feed(run, 0) as feed, pytest.raises(ShardCorruptError, match=path.stem):
        next(feed.take(1))


def test_an_entry_that_does_not_arrive_in_time_fails(run: Run) -> None:
    latents_of(run, 0).unlink()
    entries = EntryFolder(Path(run.job.shards_dir), wait_s=0.1)
    impatient = replace(run, loaded=replace(run.loaded, entries=entries))

    with Feed(impatient, 0) as feed, pytest.raises(ShardMissingError):
        next(feed.take(1))


def test_a_wait_for_an_entry_counts_as_the_runs(run: Run) -> None:
    latents = latents_of(run, 0)
    content = latents.read_bytes()
    latents.unlink()

    with Feed(run, 0) as feed:
        wait_until_wanted(latents)
        latents.with_suffix(".new").write_bytes(content)
        latents.with_suffix(".new").rename(latents)
        next(feed.take(1))

    assert run.loaded.entries.waited_s > 0.01  # it looks again after 0.02 s
