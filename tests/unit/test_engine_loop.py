"""The loop, on a device that is always late: a step is read after the next one is launched."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import Event, events_in, make_job
from trainer_core.engine.batch import Batch
from trainer_core.engine.loop import train
from trainer_core.engine.pending import Pending
from trainer_core.engine.setup import LoadedRun, load_run
from trainer_core.engine.state import open_run
from trainer_core.engine.step import SingleProcess
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.errors import NonFiniteLossError
from trainer_core.process.control import Control, ControlRequest, write_control
from trainer_core.process.events import Event as WrittenEvent
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job

STEPS = 7
EVERY = 3


@dataclass(frozen=True)
class LatePending:
    """A launched step that is not done before it is read."""

    step: int
    inner: Pending
    log: list[str]

    def is_done(self) -> bool:
        return False

    def read(self) -> StepMetrics:
        self.log.append(f"read {self.step}")
        return self.inner.read()


class LateDevice(SingleProcess):
    """One process, whose steps are never done when they are launched."""

    log: list[str]
    spoils: int | None = None
    """The step whose batches have no finite target."""

    def launch(
        self, batches: Iterable[Batch], *, count: int, step: int, learning_rate: float
    ) -> Pending:
        given = list(batches)
        if step == self.spoils:
            given[0].target_BCHW.fill_(float("nan"))
        self.log.append(f"launch {step}")
        inner = super().launch(given, count=count, step=step, learning_rate=learning_rate)
        return LatePending(step, inner, self.log)


@dataclass(frozen=True)
class Runs:
    """Starts runs of the same job in this process."""

    tiny: Path
    shards: Path
    folder: Path

    def start(
        self,
        name: str,
        *,
        late: bool,
        spoils: int | None = None,
        listen: Callable[[WrittenEvent, Path], None] | None = None,
    ) -> tuple[list[str], list[Event], Path]:
        """The order of launches and reads, the events, and the output folder."""
        folder = self.folder / name
        job = Job.model_validate(self._job(folder))
        loaded = load_run(job, Control(None))
        log: list[str] = []
        if late:
            backend = LateDevice(loaded.network, job.plan)
            backend.log, backend.spoils = log, spoils
            loaded = replace(loaded, backend=backend)
        self._train(job, loaded, folder, listen)
        return log, events_in(folder), Path(job.output_dir)

    def _train(
        self,
        job: Job,
        loaded: LoadedRun,
        folder: Path,
        listen: Callable[[WrittenEvent, Path], None] | None,
    ) -> None:
        control = folder / "control"
        with EventWriter(folder / "events.jsonl") as events:
            events.listen("end", lambda event: _stop_after_the_last_step(event, control))
            if listen is not None:
                events.listen("test", lambda event: listen(event, control))
            run = open_run(job, loaded, events, Control(control))
            train(replace(run, evaluation_samples=run.evaluation_samples[:1]))

    def _job(self, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        job = make_job(
            self.tiny,
            self.shards,
            folder,
            edge_px=64,
            count=2,
            max_train_steps=STEPS,
            checkpoint_step_interval=EVERY,
            use_ema=True,
        )
        return job | {"keep_checkpoints": STEPS}


def _stop_after_the_last_step(event: WrittenEvent, control: Path) -> None:
    """The sample image would take time."""
    if event.name == "checkpoint" and event.step == STEPS:
        write_control(control, ControlRequest.STOP)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def runs(tiny_folder: Path, shards: Path, tmp_path: Path) -> Runs:
    return Runs(tiny_folder, shards, tmp_path)


def states(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        path.parent.name: load_file(path)
        for path in sorted(output.glob("checkpoints/*/state.safetensors"))
    }


def numbers(events: list[Event]) -> list[tuple[Any, ...]]:
    """The step events, without their times."""
    return [
        (e["step"], e["loss"], e["grad_max"], e["learning_rate"])
        for e in events
        if e["event"] == "step"
    ]


def order(events: list[Event]) -> list[tuple[str, int]]:
    return [(e["event"], e["step"]) for e in events if e["event"] in ("step", "checkpoint")]


def test_a_step_is_read_after_the_next_is_launched_but_before_a_checkpoint(runs: Runs) -> None:
    _, direct, expected = runs.start("direct", late=False)
    log, late, found = runs.start("late", late=True)

    launched = "launch 1, launch 2, read 1, launch 3, read 2, read 3, "
    launched += "launch 4, launch 5, read 4, launch 6, read 5, read 6, launch 7, read 7"
    assert ", ".join(log) == launched
    assert numbers(late) == numbers(direct)
    assert [step for step, *_ in numbers(late)] == list(range(1, STEPS + 1))
    assert order(late) == order(direct)
    before, after = states(expected), states(found)
    assert list(before) == list(after) == [f"step-{step:08d}" for step in (3, 6, 7)]
    for name, state in before.items():
        assert state.keys() == after[name].keys()
        assert all(torch.equal(value, after[name][key]) for key, value in state.items())


def test_a_stop_saves_the_step_that_was_launched(runs: Runs) -> None:
    def stop(event: WrittenEvent, control: Path) -> None:
        if event.name == "step" and event.step == 1:  # step 2 is launched
            write_control(control, ControlRequest.STOP)

    log, events, output = runs.start("stopped", late=True, listen=stop)

    assert log == ["launch 1", "launch 2", "read 1", "read 2"]
    assert order(events) == [("step", 1), ("step", 2), ("checkpoint", 2)]
    assert (events[-1]["event"], events[-1]["step"]) == ("stopped", 2)
    assert list(states(output)) == ["step-00000002"]


def test_a_pause_reports_the_step_that_was_launched(runs: Runs) -> None:
    def pause_once(event: WrittenEvent, control: Path) -> None:
        if event.name == "step" and event.step == 1:
            write_control(control, ControlRequest.PAUSE)
        if event.data.get("stage") == "paused":
            write_control(control, ControlRequest.RUN)

    log, events, _ = runs.start("paused", late=True, listen=pause_once)

    assert log[:5] == ["launch 1", "launch 2", "read 1", "read 2", "launch 3"]
    (paused,) = (event for event in events if event.get("stage") == "paused")
    assert paused["step"] == 2
    assert [step for step, *_ in numbers(events)] == list(range(1, STEPS + 1))


def test_a_bad_step_is_named_although_a_later_one_was_launched(runs: Runs) -> None:
    seen: list[WrittenEvent] = []
    with pytest.raises(NonFiniteLossError, match="step 4: loss nan"):
        runs.start("bad", late=True, spoils=4, listen=lambda event, _: seen.append(event))

    assert [event.step for event in seen if event.name == "step"] == [1, 2, 3]
    assert [event.step for event in seen if event.name == "checkpoint"] == [3]
