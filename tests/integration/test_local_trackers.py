"""TensorBoard files and offline W&B runs, as listeners of the event file."""

import math
import sys
from pathlib import Path

import pytest

from tests.support.jobs import demo_plan
from tests.support.plots import tensorboard_points, wandb_runs
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Plan
from trainer_core.local.trackers import TrackerMissingError, check_trackers, trackers
from trainer_core.process.events import Event, EventWriter, parse_event


@pytest.fixture
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=64)


PLOTTED = {"train/loss", "train/learning_rate", "train/reserved_bytes", "eval/probe/mean"}


def reporting_to(plan: Plan, *kinds: str, name: str = "first try") -> Plan:
    changes = {"report_to": kinds, "tracker_run_name": name, "tracker_project_name": "moons"}
    return plan.model_copy(update={"operation": plan.operation.model_copy(update=changes)})


def train_a_little(plan: Plan, output: Path, *, first: int, last: int) -> None:
    with (
        EventWriter(output / "events.jsonl") as events,
        trackers(plan, output, events, from_step=first - 1),
    ):
        for step in range(first, last + 1):
            fields = {"loss": 1 / step, "learning_rate": 0.5, "grad_max": None, "epoch": 0}
            fields["reserved_bytes"] = 2**30
            events.emit("step", step, {**fields, "steps_per_s": math.inf, "balance_loss": None})
        events.emit("eval", last, {"name": "probe", "mean": 0.25, "held_out_mean": None})


def events_of(output: Path) -> list[Event]:
    return [parse_event(line) for line in (output / "events.jsonl").read_bytes().splitlines()]


def test_tensorboard_has_each_number_at_its_step_and_none_twice_after_a_resume(
    plan: Plan, tmp_path: Path
) -> None:
    plan = reporting_to(plan, "tensorboard", name="first/try")

    train_a_little(plan, tmp_path, first=1, last=4)
    train_a_little(plan, tmp_path, first=3, last=6)  # a kill cost steps 3 and 4

    points = tensorboard_points(tmp_path / "logs" / "first_try")
    assert points["train/loss"] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4, 5, 6)]
    assert points["eval/probe/mean"] == [(6, 0.25)]
    assert points.keys() == PLOTTED


def test_wandb_keeps_one_run_over_a_resume(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    plan = reporting_to(plan, "wandb")

    train_a_little(plan, tmp_path, first=1, last=4)
    train_a_little(plan, tmp_path, first=3, last=4)

    (first, points), (second, resumed) = wandb_runs(tmp_path / "logs")
    assert first == second
    assert (first["project"], first["name"]) == ("moons", "first try")
    assert points["train/loss"] == [(n, 1 / n) for n in (1, 2, 3, 4)]
    assert resumed["train/loss"] == [(3, 1 / 3), (4, 1 / 4)]
    assert points.keys() == PLOTTED
    assert not [event for event in events_of(tmp_path) if event.name == "warning"]


def test_a_tracker_that_cannot_start_is_a_warning(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")

    train_a_little(reporting_to(plan, "tensorboard"), tmp_path, first=1, last=2)

    names = [event.name for event in events_of(tmp_path)]
    assert names == ["warning", "step", "step", "eval"]


def test_a_listener_that_fails_gets_no_more_events(tmp_path: Path) -> None:
    reported: list[int] = []

    def fail_at_two(event: Event) -> None:
        reported.append(event.step)
        if event.step == 2:
            raise OSError("disk full")

    with EventWriter(tmp_path / "events.jsonl") as events:
        events.listen("the plotter", fail_at_two)
        for step in (1, 2, 3):
            events.emit("step", step, {})

    assert reported == [1, 2]
    written = events_of(tmp_path)
    assert [event.name for event in written] == ["step", "step", "warning", "step"]
    assert "the plotter" in written[2].data["message"]
    assert "disk full" in written[2].data["message"]


def test_a_package_that_is_missing_is_named_with_its_extra(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(TrackerMissingError, match=r"reverie\[trackers\]"):
        check_trackers(reporting_to(plan, "wandb"))
