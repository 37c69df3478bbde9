"""The event file and the control file."""

import json
import os
import signal
from pathlib import Path

import pytest

from trainer_core.engine.throughput import Throughput
from trainer_core.process.control import Control, StopRequestedError, Word
from trainer_core.process.events import EventWriter
from trainer_core.process.job import BadJobError, read_job


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_one_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.emit("stage", 0, {"stage": "loading"})
        events.emit("step", 3, {"loss": float("nan"), "nested": [float("inf"), 1.5]})

        first, second = lines_of(path)

    assert first.items() >= {"v": 1, "seq": 1, "event": "stage", "step": 0}.items()
    assert second["loss"] is None
    assert second["nested"] == [None, 1.5]


def test_a_second_process_goes_on_counting_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.emit("stage", 0, {"stage": "loading"})
    with path.open("a") as file:
        file.write('{"v": 1, "seq": 2, "ev')

    with EventWriter(path) as events:
        events.emit("stopped", 4, {})

    assert [line["seq"] for line in lines_of(path)] == [1, 2]


def test_the_control_file_is_one_word(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    assert control.word() is Word.RUN

    for word in Word:
        (tmp_path / "control").write_text(f"{word}\n")
        assert control.word() is word
    with pytest.raises(StopRequestedError):
        control.check()


def test_what_is_no_word_is_told_once_and_the_word_before_stays(tmp_path: Path) -> None:
    control, told = Control(tmp_path / "control"), list[str]()
    control.on_unknown(told.append)
    (tmp_path / "control").write_text("pause")
    assert control.word() is Word.PAUSE

    for body in (b"puase\n", b"puase\n", b"\xff"):
        (tmp_path / "control").write_bytes(body)
        assert control.word() is Word.PAUSE

    assert len(told) == 2
    assert "'puase', which is none of run, pause, stop: the run goes by pause" in told[0]
    (tmp_path / "control").write_text("run")
    assert control.word() is Word.RUN


def test_a_warning_is_an_event_at_the_step_of_the_newest(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as events:
        events.emit("stage", 3, {"stage": "training"})
        events.warn("unknown_control", "puase")

    assert (
        lines_of(tmp_path / "events.jsonl")[1].items()
        >= {
            "event": "warning",
            "step": 3,
            "code": "unknown_control",
            "message": "puase",
        }.items()
    )


def test_sigterm_asks_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        control = Control(None)
        control.heed_sigterm()
        control.check()

        os.kill(os.getpid(), signal.SIGTERM)

        assert control.word() is Word.STOP
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_job_that_is_none_is_our_own_fault(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"plan": {}}')

    with pytest.raises(BadJobError, match=r"job\.json"):
        read_job(path)


def test_small_runs_report_every_step_and_large_ones_a_few_a_second() -> None:
    small, large = Throughput(100), Throughput(10_000)

    assert all(small.is_due(step) for step in range(1, 50))
    assert sum(large.is_due(step) for step in range(1, 50)) < 5
    assert large.is_due(10_000)
