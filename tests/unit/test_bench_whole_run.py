"""The benchmark of whole runs, on the tiny model; its figures, from events and checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.whole_run.__main__ import main
from benchmarks.whole_run.checkpoints import differences
from benchmarks.whole_run.figures import growth, observations, pace, peak
from trainer_core.checkpoint.layout import STATE_NAME
from trainer_core.process.events import Event, EventName


def event(name: EventName, step: int, t_s: float, /, **data: object) -> Event:
    return Event(name=name, step=step, seq=1, t_s=t_s, data=data)


def test_the_pause_of_a_checkpoint_is_told_from_the_steps() -> None:
    events = [event("step", step, 100.0) for step in (1, 2, 3, 4)]
    events += [event("step", step, step * 0.5) for step in (5, 6, 8)]  # 7 was not reported
    events += [event("checkpoint", 8, 5.5), event("step", 9, 6.5), event("step", 10, 7.25)]
    events += [event("checkpoint", 10, 99.0)]

    found = pace(events)

    assert found["steps"] == 5
    assert found["step_s"] == pytest.approx((1.5 + 0.75) / 4, abs=1e-4)
    assert found["with_checkpoint_s"] == pytest.approx((7.25 - 2.5) / 5)
    assert (found["median_s"], found["min_s"], found["max_s"]) == (0.5, 0.5, 0.75)
    assert found["checkpoint_pause_s"] == [pytest.approx(2.5 - 2.25 / 4, abs=1e-3)]


def test_growth_compares_the_halves_of_the_settled_steps() -> None:
    in_use = [(9, 9, 9), (9, 9, 9), (5, 7, 9), (4, 7, 9), (4, 7, 9), (6, 7, 9)]
    events = [
        event(
            "step", i, i, epoch=i, allocated_bytes=a, reserved_bytes=b,
            peak_reserved_bytes=c * 2**30,
        )
        for i, (a, b, c) in enumerate(in_use)
    ]  # fmt: skip

    assert growth(events) == {
        "settled_reports": 4,
        "allocated_bytes": [5, 6],
        "allocated_bytes_grown": 1,
        "reserved_bytes": [7, 7],
        "reserved_bytes_grown": 0,
    }
    assert peak(events) == {"peak_reserved_gib": 9}


def test_the_memory_before_and_after_the_first_evaluation_and_picture_is_told() -> None:
    """A step is reported before what is made after it."""
    peaks_gib = {1: 2, 2: 3, 3: 5, 4: 5, 5: 7}
    of_steps = [
        event("step", step, step, peak_reserved_bytes=gib * 2**30)
        for step, gib in peaks_gib.items()
    ]
    of_others = [
        event("eval", 0, 0.5, name="evaluation", took_s=1.5, images=8),
        event("eval", 2, 2.5, name="evaluation", took_s=2.5, images=8),
        event("eval", 2, 2.5, name="clip", mean=0.3),
        event("sample", 4, 4.5, took_s=3.5),
        event("warning", 4, 4.5, message="slow"),
        event("sample", 5, 5.5),  # that of the result
    ]
    events = sorted([*of_steps, *of_others], key=lambda each: each.t_s)

    assert observations(events, first_evaluation=2, first_picture=4) == {
        "picture_s": [3.5],
        "evaluation_s": [1.5, 2.5],
        "evaluated_images": 8,
        "training_peak_gib": 3,
        "with_evaluation_peak_gib": 5,
        "with_pictures_peak_gib": 7,
        "warnings": ["slow"],
    }


def test_checkpoints_that_differ_in_a_bit_are_told_apart(tmp_path: Path) -> None:
    value = torch.tensor([4.0, 0.0])
    for name, other in {"a": value, "b": torch.tensor([4.0, -0.0]), "c": value + 1}.items():
        (tmp_path / name).mkdir()
        save_file({"param/x": other, "optim/x": value.clone()}, tmp_path / name / STATE_NAME)

    same, zeros, far = (differences(tmp_path / "a", tmp_path / name) for name in "abc")

    assert same == {
        "tensors": 2, "different": 0, "first_different": None, "largest_relative": 0.0,
    }  # fmt: skip
    assert (zeros["different"], zeros["largest_relative"]) == (1, 0.0)
    assert (far["different"], far["first_different"], far["largest_relative"]) == (
        1, "param/x", 0.25,
    )  # fmt: skip


@pytest.mark.deep
def test_a_tiny_run_is_measured_against_its_bare_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "results.jsonl"
    arguments = ["--folder", str(tmp_path), "--output", str(output), "--tiny", "--steps", "8"]

    status = main([*arguments, "--cases", "speed,no-sync", "--sizes", "64x64,128x64"])

    made, speed, no_sync = (json.loads(line) for line in output.read_text().splitlines())
    assert status == 1
    assert made["case"] == "make"
    assert speed["sizes_px"] == [[64, 64]]
    assert speed["steps"] == 3
    assert speed["ratio"] == pytest.approx(speed["step_s"] / speed["bare_s"], rel=0.01)
    assert not speed["checkpoint_pause_s"]  # it came before the steps that count
    assert "more than 60 steps" in no_sync["error"]
