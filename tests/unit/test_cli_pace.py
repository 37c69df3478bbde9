"""The rate and the time left that a local run shows while it prepares."""

import io
import time

import pytest
from rich.console import Console

from services.cli.pace import Pace
from services.cli.train_view import PlainView, open_view
from trainer_core.process.events import Event


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()

    assert pace.facts("caching", 0, 1000, 100.0) == ""
    assert pace.facts("caching", 5, 1000, 100.5) == ""
    assert pace.facts("caching", 20, 1000, 102.0) == "10.0/s, 1 min 38 s left"
    for second in range(3, 61):  # from here on, one a second
        shown = pace.facts("caching", 20 + second - 2, 1000, 100.0 + second)
    assert shown == "1.0/s, 15 min 22 s left"
    assert pace.facts("caching", 1000, 1000, 200.0) == ""


def test_each_stage_starts_anew() -> None:
    pace = Pace()
    pace.facts("hashing", 0, 10**10, 0.0)
    assert pace.facts("hashing", 10**9, 10**10, 2.0) == "500,000,000/s, 18 s left"

    assert pace.facts("caching", 3, 10, 3.0) == ""
    assert pace.facts("caching", 5, 10, 5.0) == "1.0/s, 5 s left"


def test_nothing_is_said_while_nothing_gets_done() -> None:
    pace = Pace()

    assert [pace.facts("caching", 0, 10, float(second)) for second in range(90)] == [""] * 90
    assert pace.facts("caching", 0, 0, 91.0) == ""


def test_lines_and_bars_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    said, shown = io.StringIO(), io.StringIO()
    plain = PlainView(Console(file=said))
    with open_view(Console(file=shown, force_terminal=True, width=120)) as live:
        for done in range(41):
            for view in (plain, live):
                view.progress("caching", done, 80)
            now_s += 1.0
    plain.progress("caching", 80, 80)

    assert said.getvalue() == (
        "caching: 0 of 80\ncaching: 30 of 80, 1.0/s, 50 s left\ncaching: 80 of 80\n"
    )
    assert "40/80\x1b[0m 1.0/s, 40 s left" in shown.getvalue()


def test_previews_have_one_line_or_are_shown_beside_the_bar() -> None:
    said, shown = io.StringIO(), io.StringIO()
    plain = PlainView(Console(file=said))
    with open_view(Console(file=shown, force_terminal=True, width=120)) as live:
        for number, view in enumerate((plain, live)):
            for sampler_step in (10, 20):
                data = {
                    "path": "samples/preview.png",
                    "name": "boat",
                    "sampler_step": sampler_step,
                    "sampler_steps": 30,
                }
                view.event(Event(name="preview", step=8, seq=number + 1, t_s=0.0, data=data))

    assert said.getvalue() == (
        "step 8: preview of boat at step 10 of 30 of its sampler: samples/preview.png\n"
    )
    text = shown.getvalue()
    assert "boat at step 20 of 30 of its sampler: samples/preview.png" in text
    assert "pictures" in text
