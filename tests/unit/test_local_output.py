import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.cli.signals import StopSignals
from trainer_core.local.output import recorded_outcome
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter


@pytest.fixture
def control() -> Iterator[Control]:
    """Of a run to which Ctrl-C was pressed once."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    pressed, said = Control(None), list[str]()
    StopSignals(said.append).handle(pressed)
    os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1
    yield pressed
    for number, handler in before:
        signal.signal(number, handler)


def last_event(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return found


def test_the_first_ctrl_c_only_requests_a_stop(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    run(path, control, control.check_stop)

    assert not control.was_interrupted
    assert last_event(path)["event"] == "stopped"


def load_a_model(control: Control, library: str) -> None:
    """Ctrl-C comes while a library is at work."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        if library == "raises another error":
            raise ValueError("cannot load the model") from None
        if library == "passes it on":
            raise
    control.requested()  # as between two steps


def run(path: Path, control: Control, work: Callable[[], None]) -> None:
    with EventWriter(path) as events, recorded_outcome(events, control, path.parent):
        work()


@pytest.mark.parametrize("library", ["passes it on", "raises another error", "catches it"])
def test_the_second_one_interrupts_whatever_a_library_does(
    control: Control, tmp_path: Path, library: str
) -> None:
    path = tmp_path / "events.jsonl"

    with pytest.raises(KeyboardInterrupt):
        run(path, control, partial(load_a_model, control, library))

    assert last_event(path)["code"] == "interrupted"


def divide_by_zero() -> None:
    divmod(1, 0)


def test_an_error_without_an_interrupt_stays_what_it_is(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    with pytest.raises(ZeroDivisionError):
        run(path, control, divide_by_zero)

    assert last_event(path)["code"] != "interrupted"
