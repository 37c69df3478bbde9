"""Work that runs from graphs: rehearsed without a trace, captured once, and limited in number.

A CPU has no graphs. The recorder here calls the captured function again, which does the same
operations on the same tensors. `tests/gpu/test_engine_graphs.py` has real graphs.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.test_engine_step import (
    backend_of,
    batch_of,
    optimizer_of,
    plan,
    same,
    snapshot,
)
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.graphs import MAX_GRAPHS, Graphs, Run, Work
from trainer_core.engine.step import SingleProcess
from trainer_core.optim import guarded

__all__ = ["plan"]  # a fixture


class Repeating:
    """Captures a function by keeping it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuses = False
        self.free_runs = 1000
        """Runs until memory is missing."""

    def make_room(self) -> None:
        self.log.append("room")

    def capture(self, run: Run) -> Run:
        self.log.append("capture")
        if self.refuses:
            raise RuntimeError("an operation that cannot be captured")

        def replay() -> None:
            self.log.append("replay")
            run()

        return replay

    def run_beside(self, run: Run) -> None:
        self.log.append("beside")
        run()
        self.free_runs -= 1
        if self.free_runs < 0:
            raise torch.OutOfMemoryError

    def clear(self) -> None:
        self.log.append("clear")
        self.free_runs = max(self.free_runs, 2)


class Counter:
    """Work that counts in a tensor."""

    def __init__(self, key: str) -> None:
        self.total = torch.zeros(())
        self.work = Work(key=key, run=self._add, rehearse=self._add, changed=[self.total])

    def _add(self) -> None:
        self.total += 1


@pytest.fixture
def recorder() -> Repeating:
    return Repeating()


def test_work_is_rehearsed_without_a_trace_and_captured_once(recorder: Repeating) -> None:
    graphs, counter = Graphs(recorder, pytest.fail), Counter("a")

    graphs.run(counter.work)
    graphs.run(counter.work)

    assert recorder.log == ["room", "beside", "beside", "capture", "replay", "replay"]
    assert counter.total == 2


def test_there_are_only_so_many_graphs(recorder: Repeating) -> None:
    warnings: list[str] = []
    graphs = Graphs(recorder, warnings.append)
    counters = [Counter(str(number)) for number in range(MAX_GRAPHS + 2)]

    for _ in range(2):
        for counter in counters:
            graphs.run(counter.work)

    assert [counter.total.item() for counter in counters] == [2] * len(counters)
    assert recorder.log.count("capture") == MAX_GRAPHS
    assert recorder.log.count("replay") == 2 * MAX_GRAPHS
    (warning,) = warnings
    assert f"{MAX_GRAPHS} graphs are the most" in warning


def test_a_capture_that_fails_is_told_and_not_tried_again(recorder: Repeating) -> None:
    warnings: list[str] = []
    graphs, counters = Graphs(recorder, warnings.append), [Counter("a"), Counter("b")]
    graphs.run(counters[0].work)
    recorder.refuses = True

    for counter in counters:
        graphs.run(counter.work)

    assert [counter.total.item() for counter in counters] == [2, 1]
    graphs.run(Counter("c").work)
    assert recorder.log.count("capture") == 2
    (warning,) = warnings
    assert "an operation that cannot be captured" in warning


def test_cleared_graphs_are_captured_again(recorder: Repeating) -> None:
    graphs, counter = Graphs(recorder, pytest.fail), Counter("a")
    graphs.run(counter.work)

    graphs.clear()
    graphs.run(counter.work)

    assert recorder.log.count("capture") == 2
    assert counter.total == 2


def test_graphs_give_their_memory_to_work_that_lacks_it(recorder: Repeating) -> None:
    graphs, small, large = Graphs(recorder, pytest.fail), Counter("a"), Counter("b")
    graphs.run(small.work)
    recorder.free_runs = 1

    graphs.run(large.work)

    assert recorder.log[5:] == [
        *("room", "beside", "beside", "clear"),
        *("room", "beside", "beside", "capture", "replay"),
    ]
    recorder.free_runs = 2
    graphs.run(small.work)
    assert (small.total, large.total) == (2, 1)


def test_memory_that_no_graph_holds_is_missing(recorder: Repeating) -> None:
    counter = Counter("a")
    recorder.free_runs = 1

    with pytest.raises(torch.OutOfMemoryError):
        Graphs(recorder, pytest.fail).run(counter.work)

    assert counter.total == 0


def with_graphs(backend: SingleProcess, recorder: Repeating) -> SingleProcess:
    backend._graphs = Graphs(recorder, backend._warnings.append)
    return backend


def window(step: int) -> list[Batch]:
    return [batch_of(10 * step), batch_of(10 * step + 1, (4, 4) if step % 2 else (6, 4))]


@pytest.mark.parametrize(
    ("optimizer", "is_mean_away"),
    [("optimi-lion", False), ("adamw", False), ("adamw", True), ("prodigy", False)],
)
def test_steps_from_graphs_are_the_same(
    tiny_folder: Path,
    plan: Plan,
    recorder: Repeating,
    monkeypatch: pytest.MonkeyPatch,
    *,
    optimizer: str,
    is_mean_away: bool,
) -> None:
    """``is_mean_away``: as on cuda with the running mean on the host."""
    monkeypatch.setattr(guarded, "host_knows", lambda flag: False)
    fields: dict[str, Any] = {"optimizer": optimizer_of(optimizer)}
    wanted = backend_of(tiny_folder, plan, **fields)
    found = with_graphs(backend_of(tiny_folder, plan, **fields), recorder)
    assert found._ema is not None
    found._ema.asks_host = is_mean_away

    for step in range(1, 5):
        metrics = [
            each.launch(window(step), count=2, step=step, learning_rate=1e-3).read()
            for each in (wanted, found)
        ]
        assert metrics[0] == metrics[1]

    assert same(snapshot(wanted.tensors()), snapshot(found.tensors()))
    # Three shapes of batches, and the update, unless it asks the host.
    asks_host = optimizer == "prodigy" or is_mean_away
    assert recorder.log.count("capture") == (3 if asks_host else 4)
    assert found.take_warnings() == []
    found.free_memory()
    with found.with_means():
        assert recorder.log[-1] == "clear"


def test_what_asks_the_host_is_told_before_the_first_step(tiny_folder: Path, plan: Plan) -> None:
    asking, other = (
        backend_of(tiny_folder, plan, optimizer=optimizer_of(name)) for name in ("prodigy", "adamw")
    )

    assert asking.preparation == ("prodigy asks the host before each update",)
    assert other.preparation == ()
