"""The event file and the control file."""

import json
import os
import signal
from pathlib import Path

import pytest

from trainer_core.engine.throughput import Throughput
from trainer_core.process.control import (
    Control,
    ControlRequest,
    StopRequestedError,
    write_control,
)
from trainer_core.process.events import Event, EventReader, EventWriter
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


def test_a_second_process_continues_the_numbering_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.emit("stage", 0, {"stage": "loading"})
    with path.open("a") as file:
        file.write('{"v": 1, "seq": 2, "ev')

    with EventWriter(path) as events:
        events.emit("stopped", 4, {})

    assert [line["seq"] for line in lines_of(path)] == [1, 2]


def test_a_listener_that_fails_is_told_once_in_few_words(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        raise ValueError("x" * 100_000)

    with EventWriter(tmp_path / "events.jsonl") as events:
        events.listen("the test", fail)
        events.emit("step", 1, {})
        events.emit("step", 2, {})

    step, warning, _ = lines_of(tmp_path / "events.jsonl")
    assert (step["event"], warning["event"]) == ("step", "warning")
    message = str(warning["message"])
    assert message.startswith("the test failed and gets no more events: ValueError: xxx")
    assert len(message) < 400


def test_the_control_file_holds_one_request(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    assert control.requested() is ControlRequest.RUN

    for request in ControlRequest:
        (tmp_path / "control").write_text(f"{request}\n")
        assert control.requested() is request
    with pytest.raises(StopRequestedError):
        control.check_stop()


def test_an_unknown_request_is_a_warning_once_and_the_one_before_stays(tmp_path: Path) -> None:
    control, warnings = Control(tmp_path / "control"), list[str]()
    control.on_unknown(warnings.append)
    (tmp_path / "control").write_text("pause")
    assert control.requested() is ControlRequest.PAUSE

    for body in (b"puase\n", b"puase\n", b"\xff"):
        (tmp_path / "control").write_bytes(body)
        assert control.requested() is ControlRequest.PAUSE

    assert len(warnings) == 2
    assert (
        "'puase', which is none of run, pause, stop. The request pause stays in force"
        in warnings[0]
    )
    (tmp_path / "control").write_text("run")
    assert control.requested() is ControlRequest.RUN


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


def test_sigterm_requests_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        control = Control(None)
        control.stop_on_sigterm()
        control.check_stop()

        os.kill(os.getpid(), signal.SIGTERM)

        assert control.requested() is ControlRequest.STOP
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_control_file_is_replaced_atomically(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")

    for request in (*ControlRequest, ControlRequest.RUN):
        write_control(tmp_path / "control", request)
        assert control.requested() is request
    assert [path.name for path in tmp_path.iterdir()] == ["control"]


def test_a_reader_follows_a_file_that_grows(tmp_path: Path) -> None:
    path, unreadable = tmp_path / "events.jsonl", list[bytes]()
    reader = EventReader(path, on_unreadable=unreadable.append)
    assert list(reader.new_events()) == []
    with EventWriter(path) as events:
        written: list[Event] = []
        events.listen("the test", written.append)
        events.emit("stage", 0, {"stage": "loading"})
        assert list(reader.new_events()) == written
        events.emit("step", 1, {"loss": 0.5})
    with path.open("ab") as file:
        file.write(b'{"v": 1, "seq": 3, "event": "stopped", "ste')

    assert list(reader.new_events()) == written[1:]
    with path.open("ab") as file:
        file.write(b'p": 1, "t_s": 0.5}\n')
    (last,) = reader.new_events()
    assert (last.name, last.step, last.seq, last.t_s, last.data) == ("stopped", 1, 3, 0.5, {})
    assert unreadable == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"{}",
        b'{"event": "step", "seq": 1}',
        b'{"event": "steps", "step": 1, "seq": 1}',
    ],
)
def test_a_line_that_is_not_an_event_is_reported_and_skipped(tmp_path: Path, line: bytes) -> None:
    path, unreadable = tmp_path / "events.jsonl", list[bytes]()
    with EventWriter(path) as events:
        events.emit("step", 1, {})
        with path.open("ab") as file:
            file.write(line + b"\n")
        events.emit("step", 2, {})

    reader = EventReader(path, on_unreadable=unreadable.append)
    assert [event.step for event in reader.new_events()] == [1, 2]
    assert unreadable == [line]


def test_an_invalid_job_file_is_a_platform_error(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"plan": {}}')

    with pytest.raises(BadJobError, match=r"job\.json"):
        read_job(path)


def test_small_runs_report_every_step_and_large_ones_a_few_a_second() -> None:
    small, large = Throughput(100), Throughput(10_000)

    assert all(small.is_due(step) for step in range(1, 50))
    assert sum(large.is_due(step) for step in range(1, 50)) < 5
    assert large.is_due(10_000)
