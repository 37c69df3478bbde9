"""What the parts of a training process took, from the events that it writes."""

from typing import Any

from trainer_core.process.attempt_times import AttemptTimes
from trainer_core.process.events import Event, EventName

_TIMINGS = {"timings": {"total_s": 1.0}}


def times_of(*events: tuple[EventName, int, float, dict[str, Any]]) -> dict[str, Any]:
    times = AttemptTimes()
    for seq, (name, step, t_s, data) in enumerate(events, start=1):
        times.note(Event(name=name, step=step, seq=seq, t_s=t_s, data=data))
    return times.as_json()


def stage(name: str, step: int, t_s: float) -> tuple[EventName, int, float, dict[str, Any]]:
    return "stage", step, t_s, {"stage": name}


def test_a_run_is_taken_apart() -> None:
    found = times_of(
        stage("loading", 0, 0.0),
        ("plan", 0, 5.0, {}),
        stage("training", 0, 7.0),
        ("stage", 1, 10.0, {"stage": "training", **_TIMINGS}),
        ("step", 1, 10.0, {}),
        ("step", 2, 12.0, {}),
        ("step", 3, 14.0, {}),
        stage("checkpointing", 3, 14.0),
        ("checkpoint", 3, 17.0, {}),
        stage("training", 3, 18.0),
        ("step", 4, 20.0, {}),
        stage("checkpointing", 4, 20.0),
        ("checkpoint", 4, 22.0, {}),
        stage("training", 4, 24.0),
        ("eval", 4, 30.0, {}),
        stage("sampling", 4, 30.0),
        stage("finalizing", 4, 33.0),
        ("finished", 4, 35.0, {}),
    )
    assert found == {
        "steps": 3,
        "start_s": 10.0,
        "step_s": 2.0,
        "checkpoint_s": 4.0,
        "end_s": 11.0,
        "process_s": 35.0,
        "pictures_s": 0.0,
    }


def test_pictures_are_no_part_of_start_steps_and_end() -> None:
    found = times_of(
        stage("loading", 0, 0.0),
        stage("sampling", 0, 5.0),
        ("sample", 0, 9.0, {}),
        stage("training", 0, 10.0),
        ("stage", 1, 12.0, {"stage": "training", **_TIMINGS}),
        ("step", 1, 12.0, {}),
        ("step", 2, 14.0, {}),
        stage("sampling", 2, 14.0),
        stage("paused", 2, 17.0),
        stage("sampling", 2, 19.0),
        ("sample", 2, 20.0, {}),
        stage("training", 2, 20.0),
        ("step", 3, 22.0, {}),
        stage("sampling", 3, 22.0),
        stage("finalizing", 3, 25.0),
        ("finished", 3, 26.0, {}),
    )
    assert (found["start_s"], found["pictures_s"], found["end_s"]) == (7.0, 9.0, 4.0)


def test_evaluations_after_the_first_step_are_no_part_of_steps_and_end() -> None:
    found = times_of(
        stage("loading", 0, 0.0),
        stage("evaluating", 0, 5.0),
        ("eval", 0, 9.0, {}),
        stage("training", 0, 10.0),
        ("stage", 1, 12.0, {"stage": "training", **_TIMINGS}),
        ("step", 1, 12.0, {}),
        ("step", 2, 14.0, {}),
        stage("evaluating", 2, 14.0),
        stage("evaluating", 2, 17.0),  # a sign of life
        ("eval", 2, 20.0, {}),
        stage("training", 2, 20.0),
        ("step", 3, 22.0, {}),
        stage("evaluating", 3, 22.0),
        ("eval", 3, 25.0, {}),
        stage("training", 3, 25.0),
        ("finished", 3, 26.0, {}),
    )
    assert (found["start_s"], found["step_s"], found["end_s"]) == (12.0, 2.0, 1.0)


def test_steps_without_an_event_of_their_own_are_counted() -> None:
    found = times_of(
        ("stage", 101, 10.0, {"stage": "training", **_TIMINGS}),
        ("step", 101, 10.0, {}),
        ("step", 201, 60.0, {}),
        ("stopped", 201, 61.0, {}),
    )
    assert (found["steps"], found["step_s"], found["checkpoint_s"]) == (100, 0.5, None)


def test_a_pause_is_no_part_of_a_step() -> None:
    found = times_of(
        ("stage", 1, 10.0, {"stage": "training", **_TIMINGS}),
        ("step", 2, 12.0, {}),
        stage("paused", 2, 12.0),
        stage("training", 2, 100.0),
        ("step", 3, 102.0, {}),
        ("finished", 3, 103.0, {}),
    )
    assert (found["step_s"], found["end_s"], found["process_s"]) == (2.0, 1.0, 103.0)


def test_a_process_that_took_no_step_says_so() -> None:
    found = times_of(stage("loading", 0, 0.0), ("failed", 0, 3.0, {}))
    assert found["steps"] == 0
    assert found["start_s"] is found["step_s"] is found["end_s"] is None
