"""When a training process counts as hung."""

from typing import Any

from services.trainer.stalls import StallWatch
from trainer_core.process.events import Event, EventName


class Process:
    """A training process on a clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.watch = StallWatch(stall_s=10, start_stall_s=60, clock=lambda: self.now_s)

    def reports(self, name: EventName, step: int = 0, **data: Any) -> None:
        self.watch.note(Event(name=name, step=step, seq=1, t_s=0.0, data=data))

    def passes(self, seconds: float) -> str | None:
        self.now_s += seconds
        problem = self.watch.problem()
        return None if problem is None else problem.code


def training() -> Process:
    process = Process()
    process.reports("stage", stage="training")
    process.reports("step", 1)
    return process


def test_loading_and_compiling_have_a_longer_limit() -> None:
    process = Process()
    process.reports("stage", stage="loading")
    assert process.passes(55) is None
    process.reports("stage", stage="training")
    assert process.passes(55) is None
    assert process.passes(10) == "stalled"


def test_a_resumed_process_starts_with_the_longer_limit_too() -> None:
    process = Process()
    process.reports("stage", 40, stage="training")
    assert process.passes(55) is None


def test_silence_after_the_first_step_is_a_stall() -> None:
    process = training()
    assert process.passes(10) is None
    assert process.passes(1) == "stalled"


def test_events_without_steps_are_no_progress() -> None:
    process = training()
    for _ in range(3):
        assert process.passes(3) is None
        process.reports("warning", 1, code="c", message="m")
    assert process.passes(3) == "no_progress"


def test_a_step_is_progress() -> None:
    process = training()
    for step in range(2, 9):
        assert process.passes(9) is None
        process.reports("step", step)


def test_other_stages_need_no_steps() -> None:
    process = training()
    process.reports("stage", 1, stage="sampling")
    for _ in range(5):
        process.reports("sample", 1)
        assert process.passes(9) is None
    process.reports("stage", 1, stage="training")
    assert process.passes(9) is None


def test_waiting_for_the_supervisor_does_not_count() -> None:
    process = training()
    for _ in range(5):
        assert process.passes(9) is None
        process.watch.excuse()
    assert process.passes(11) == "stalled"
