"""The evaluation loss of a run: when it is measured, of which weights, and that it changes none."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import Event, events_in, make_job
from tests.support.small_jobs import named
from trainer_core.checkpoint.folders import committed_checkpoints
from trainer_core.engine.evaluating import EvaluationBatches
from trainer_core.engine.loop import train
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import Run, open_run
from trainer_core.engine.step import load_parameters
from trainer_core.process.control import Control, ControlRequest, write_control
from trainer_core.process.events import Event as WrittenEvent
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job
from trainer_core.validation.evaluation import EvaluationRow

STEPS = 5
EVERY = {"eval_steps_interval": 2, "num_eval_images": 2, "eval_timesteps": 3}
DROPOUT = {"lora_type": "standard", "lycoris_config": None, "lora_rank": 4, "lora_dropout": 0.3}


@dataclass(frozen=True)
class Runs:
    """Runs of a few steps in this process, with a running mean, up to their last checkpoint."""

    tiny: Path
    shards: Path
    folder: Path

    def job(self, name: str, **options: Any) -> dict[str, Any]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        usual = {
            "max_train_steps": STEPS,
            "checkpoint_step_interval": 2,
            "lr_warmup_steps": 1,
            "use_ema": True,
            "ema_decay": 0.5,
        }
        job = make_job(self.tiny, self.shards, folder, edge_px=64, count=2, **{**usual, **options})
        return job | {"keep_checkpoints": 9}

    def open(self, job: dict[str, Any], events: EventWriter, control: Path | None = None) -> Run:
        read = Job.model_validate(job)
        watched = Control(control)
        return open_run(read, load_run(read, watched), events, watched)

    def train(
        self,
        name: str,
        job: dict[str, Any],
        listen: Callable[[WrittenEvent, Path], None] | None = None,
    ) -> list[Event]:
        """The events of this process."""
        control = self.folder / name / "control"
        control.unlink(missing_ok=True)
        before = len(events_in(self.folder / name))
        last = job["plan"]["identity"]["max_train_steps"]

        def stop_at_the_end(event: WrittenEvent) -> None:
            # The last validation and the sample image would take most of the time.
            if event.name == "checkpoint" and event.step == last:
                write_control(control, ControlRequest.STOP)

        with EventWriter(self.folder / name / "events.jsonl") as events:
            events.listen("end", stop_at_the_end)
            if listen is not None:
                events.listen("test", lambda event: listen(event, control))
            train(self.open(job, events, control))
        return events_in(self.folder / name)[before:]

    def checkpoint(self, name: str, step: int) -> Path:
        return self.folder / name / f"output/checkpoints/step-{step:08d}"


def evaluations(events: list[Event]) -> list[Event]:
    return [event for event in named(events, "eval") if event["name"] == "evaluation"]


def numbers(event: Event) -> dict[str, Any]:
    """What was measured, without what depends on the clock and the event's place in the file."""
    return {k: v for k, v in event.items() if k not in ("seq", "t_s", "took_s")}


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_folder, tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def unbroken(runs: Runs) -> list[Event]:
    """Events of a run with dropout that measures at steps 0, 2, 4 and 5."""
    return runs.train("unbroken", runs.job("unbroken", **DROPOUT, **EVERY))


def test_it_is_measured_at_the_start_at_intervals_and_at_the_end(unbroken: list[Event]) -> None:
    found = evaluations(unbroken)

    assert [event["step"] for event in found] == [0, 2, 4, 5]
    for event in found:
        assert event["images"] == 2
        assert event["held_out"] is True
        assert event["weights"] == "ema"
        assert event["low"] < event["mean"] < event["high"]
        assert [each["sigma"] for each in event["by_sigma"]] == [1 / 6, 0.5, 5 / 6]
        assert "by_backend" not in event
        assert [len(layer) for layer in event["expert_use"]] == [4] * 4
        assert [sum(layer) for layer in event["expert_use"]] == pytest.approx([1] * 4, abs=1e-3)
    lowest = 0
    for number, event in enumerate(found):
        if event["mean"] < found[lowest]["mean"]:
            lowest = number
        assert event["best_step"] == found[lowest]["step"]
        assert event["is_best"] is (lowest == number)
    # A step is reported before its measurement, and that before its checkpoint.
    at_four = [event["event"] for event in unbroken if event["step"] == 4]
    assert at_four == ["step", "stage", "eval", "stage", "checkpoint", "stage"]


def test_training_is_the_same_bit_for_bit_without_it(runs: Runs, unbroken: list[Event]) -> None:
    plain = runs.train("plain", runs.job("plain", **DROPOUT))

    assert not evaluations(plain)
    assert [event["loss"] for event in named(plain, "step")] == [
        event["loss"] for event in named(unbroken, "step")
    ]
    for step in (2, 4, 5):
        with_it, without = (
            load_file(runs.checkpoint(name, step) / "state.safetensors")
            for name in ("unbroken", "plain")
        )
        assert with_it.keys() == without.keys()
        assert all(torch.equal(value, without[key]) for key, value in with_it.items())
        manifests = [
            json.loads((runs.checkpoint(name, step) / "manifest.json").read_text())
            for name in ("unbroken", "plain")
        ]
        assert "evaluations" not in manifests[1]["scalars"]


def test_a_resumed_run_measures_what_is_missing_and_nothing_twice(
    runs: Runs, unbroken: list[Event]
) -> None:
    job = runs.job("resumed", **DROPOUT, **EVERY)
    job["resume_from"] = str(runs.checkpoint("unbroken", 2))

    found = evaluations(runs.train("resumed", job))

    assert [numbers(event) for event in found] == [
        numbers(event) for event in evaluations(unbroken)[2:]
    ]


def test_a_stop_during_a_measurement_is_obeyed_and_the_resumed_run_makes_it(
    runs: Runs, unbroken: list[Event]
) -> None:
    def stop(event: WrittenEvent, control: Path) -> None:
        if event.name == "stage" and event.data["stage"] == "evaluating" and event.step == 4:
            write_control(control, ControlRequest.STOP)

    job = runs.job("stopped", **DROPOUT, **EVERY)
    first = runs.train("stopped", job, stop)
    job["resume_from"] = str(runs.checkpoint("stopped", 4))
    second = runs.train("stopped", job)

    assert [event["step"] for event in evaluations(first)] == [0, 2]
    assert (first[-1]["event"], first[-1]["step"]) == ("stopped", 4)
    assert [numbers(event) for event in evaluations(second)] == [
        numbers(event) for event in evaluations(unbroken)[2:]
    ]
    state, whole = (
        load_file(runs.checkpoint(name, 4) / "state.safetensors")
        for name in ("stopped", "unbroken")
    )
    assert all(torch.equal(value, whole[key]) for key, value in state.items())


def test_the_numbers_are_the_squared_error_of_the_mean_weights(
    runs: Runs, unbroken: list[Event]
) -> None:
    """The evaluation after step 4, computed by hand from the checkpoint's running means."""
    job = runs.job("by-hand", **DROPOUT, **EVERY, loss_type="huber")
    with EventWriter(runs.folder / "by-hand/events.jsonl") as events:
        run = runs.open(job, events)
    state = load_file(runs.checkpoint("unbroken", 4) / "state.safetensors")
    means = {k.removeprefix("ema/"): v for k, v in state.items() if k.startswith("ema/")}
    network = run.loaded.network
    load_parameters(network.trained, means)
    network.transformer.eval()
    assert run.evaluation_set is not None
    batches = EvaluationBatches(run.loaded.batches)
    table = []
    for place, image in enumerate(run.evaluation_set.images):
        for number, sigma in enumerate(run.evaluation_set.sigmas):
            row = EvaluationRow(image=image, place=place, number=number, sigma=sigma)
            batch = batches.batch([row]).to(torch.device("cpu"))
            assert batch.mask_B1HW is None
            # Noise and latents can be told from the target and the noisy latents.
            latents = batch.noisy_BCHW.double() - sigma * batch.target_BCHW.double()
            noise = batch.target_BCHW.double() + latents
            drawn = torch.Generator().manual_seed(image.seed("noise", number))
            expected = torch.randn(batch.target_BCHW.shape, generator=drawn).double()
            torch.testing.assert_close(noise, expected, rtol=0, atol=1e-5)
            with torch.no_grad():
                found = network.velocity(
                    batch.noisy_BCHW, 1000.0 * batch.sigmas_B, batch.text, "exact"
                ).velocity_BCHW
            error = found.double() - batch.target_BCHW.double()
            table.append(error.square().mean().item())
    of_images = torch.tensor(table, dtype=torch.float64).view(2, 3)

    event = evaluations(unbroken)[2]

    assert event["mean"] == pytest.approx(of_images.mean().item(), rel=1e-5)
    assert [each["mean"] for each in event["by_sigma"]] == pytest.approx(
        of_images.mean(dim=0).tolist(), rel=1e-5
    )
    half = 12.706204736174694 * of_images.mean(dim=1).std().item() / 2**0.5
    assert event["high"] - event["mean"] == pytest.approx(half, rel=1e-3)


def test_runs_that_differ_in_shift_loss_and_seed_measure_the_same(
    runs: Runs, unbroken: list[Event]
) -> None:
    """Before the first step, when the adapter changes nothing."""
    other = {"flow_schedule_shift": 7, "loss_type": "huber", "seed": 9, "use_ema": False}

    def stop(event: WrittenEvent, control: Path) -> None:
        if event.data.get("name") == "evaluation":
            write_control(control, ControlRequest.STOP)

    (found,) = evaluations(
        runs.train("other", runs.job("other", **DROPOUT, **EVERY, **other), stop)
    )

    first = evaluations(unbroken)[0]
    for name in ("basis", "mean", "low", "high", "by_sigma"):
        assert found[name] == first[name]
    assert found["weights"] == "trained"


def test_the_best_checkpoint_is_kept(runs: Runs) -> None:
    """The rate is so high that the loss rises."""
    worse = {"learning_rate": 8, "checkpoint_step_interval": 1, "eval_steps_interval": 1}
    job = runs.job("best", **{**EVERY, **worse, "max_train_steps": 4, "use_ema": False})
    job["keep_checkpoints"] = 2

    found = evaluations(runs.train("best", job))

    best = min((event for event in found if event["step"] > 0), key=lambda each: each["mean"])
    assert best["step"] < 3, [event["mean"] for event in found]
    kept = committed_checkpoints(runs.folder / "best/output/checkpoints")
    assert [path.name for path in kept] == [f"step-{best['step']:08d}", "step-00000004"]
    manifest = json.loads((kept[-1] / "manifest.json").read_text())
    assert manifest["scalars"]["evaluations"]["best_checkpoint"]["step"] == best["step"]
