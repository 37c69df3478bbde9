"""Events as the lines of a log."""

import re
from pathlib import Path
from typing import Any

import pytest

from trainer_core.process.event_texts import lines_of, print_event
from trainer_core.process.events import Event, EventName, EventWriter


def event(name: EventName, step: int = 0, /, **data: Any) -> Event:
    return Event(name=name, step=step, seq=1, t_s=0.0, data=data)


@pytest.mark.parametrize(
    ("of", "lines"),
    [
        (
            event(
                "plan",
                steps=80,
                trainable_parameters=12_345,
                preparation=["fp32 on the CPU"],
                warnings=["no mask is used"],
            ),
            ["80 steps, 12,345 trained parameters", "fp32 on the CPU", "warning: no mask is used"],
        ),
        (event("stage", stage="loading"), ["loading the model"]),
        (
            event("step", 7, loss=0.5, learning_rate=1e-2, steps_per_s=0.25, eta_s=90.0),
            ["step 7: loss 0.5000, rate 0.01, 4.00 s/step, 1 min 30 s left"],
        ),
        (event("step", 8, loss=None, learning_rate=1e-2), ["step 8: rate 0.01"]),
        (event("checkpoint", 20), ["step 20: checkpoint saved"]),
        (event("eval", 20, name="probe", mean=1.5), ["step 20: validation loss 1.5000"]),
        (
            event(
                "eval",
                20,
                name="evaluation",
                mean=0.5,
                low=0.45,
                high=0.55,
                images=4,
                held_out=True,
                is_best=True,
            ),
            [
                (
                    "step 20: evaluation loss 0.5000 (0.4500 to 0.5500, 4 held-out images), "
                    "the lowest so far"
                )
            ],
        ),
        (
            event("eval", 0, name="evaluation", mean=0.5, low=None, images=1, is_best=True),
            ["step 0: evaluation loss 0.5000 (1 training image)"],
        ),
        (
            event("eval", 3, name="evaluation", mean=None, images=2, held_out=True),
            ["step 3: evaluation loss is not finite (2 held-out images)"],
        ),
        (
            event("eval", 3, name="clip", weights="ema", mean=0.25, min=0.2, max=0.3, pictures=2),
            ["step 3: CLIP score 0.2500 (0.2000 to 0.3000, 2 pictures, ema weights)"],
        ),
        (event("stage", stage="evaluating"), ["evaluating"]),
        (event("warning", message="slow"), ["warning: slow"]),
        (event("failed", 3, message="The loss is nan."), ["failed: The loss is nan."]),
        (event("stopped", 21), ["stopped after step 21"]),
        (event("finished", 80), ["finished after step 80"]),
        (event("sample", 80, path="sample.png"), []),
    ],
)
def test_what_a_log_shows_of_an_event(of: Event, lines: list[str]) -> None:
    assert lines_of(of) == lines


def test_each_line_has_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EventWriter(tmp_path / "events.jsonl") as events:
        events.listen("the log", print_event)
        events.warn("slow", "the disk is slow")

    printed = capsys.readouterr().out
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ warning: the disk is slow\n", printed)
