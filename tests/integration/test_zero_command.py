"""Full-rank training under DeepSpeed: one process, resume, another stage, and two ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import ranks
from tests.support.clip_reference import cosines, training_pictures
from tests.support.jobs import (
    Event,
    events_in,
    start_train,
    train,
    wait_for_event,
)
from tests.support.tiny_clip import write_tiny_clip
from tests.support.zero_ranks import stored_tensors
from trainer_core.checkpoint.folders import committed_checkpoints, read_manifest
from trainer_core.hidream.loading import load_transformer
from trainer_core.process.control import ControlRequest, write_control
from trainer_core.process.job import Job

STEPS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def full_job(tiny: Path, shards: Path, folder: Path, **options: Any) -> dict[str, Any]:
    own = {
        "learning_rate": 1e-4,
        "gradient_accumulation_steps": 2,
        "eval_steps_interval": 2,
        "num_eval_images": 2,
        "eval_timesteps": 3,
    }
    return ranks.full_job(tiny, shards, folder, **{**own, **options})


def state_of(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    checkpoint = folder / f"output/checkpoints/step-{step:08d}"
    return stored_tensors(checkpoint, list(read_manifest(checkpoint).files))


def evaluations(events: list[Event]) -> list[Event]:
    return [each for each in events if each["event"] == "eval" and each["name"] == "evaluation"]


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    status, events = train(full_job(tiny_folder, shards, folder), folder)
    assert status == 0, (folder / "output.log").read_text()
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [2, 4]
    return folder


def test_the_result_is_a_transformer_that_learned(whole: Path, tiny_folder: Path) -> None:
    result = whole / "output" / "result"

    assert_is_result(result, state_of(whole))

    base, state = load_transformer(tiny_folder, torch.float32), state_of(whole)
    moved = [not torch.equal(p, state[f"param/{n}"]) for n, p in base.named_parameters()]
    assert all(moved)
    card = json.loads((result / "card.json").read_text())
    assert card["model_type"] == "full"
    assert card["loss"]["after"]["mean"] < card["loss"]["before"]["mean"]


def test_the_checkpoint_holds_whole_tensors_by_name(whole: Path, tiny_folder: Path) -> None:
    names = dict(load_transformer(tiny_folder, torch.float32).named_parameters())

    state = state_of(whole)

    fields = ("exp_avg", "exp_avg_sq", "step")
    expected = {f"param/{n}" for n in names} | {f"optim/{n}/{f}" for n in names for f in fields}
    assert state.keys() == expected
    assert {state[f"optim/{n}/step"].item() for n in names} == {float(STEPS)}
    assert all(state[f"param/{n}"].shape == p.shape for n, p in names.items())


@pytest.mark.parametrize("stage", [2, 3])
def test_a_resumed_run_ends_with_the_same_weights(
    whole: Path, tiny_folder: Path, shards: Path, tmp_path: Path, stage: int
) -> None:
    """Also with pictures while it trains, which the first run does not make."""
    job = full_job(tiny_folder, shards, tmp_path, zero_stage=stage, validation_step_interval=1)
    job["resume_from"] = str(whole / "output/checkpoints/step-00000002")

    status, events = train(job, tmp_path)

    assert status == 0, (tmp_path / "output.log").read_text()
    assert [e["step"] for e in events if e["event"] == "step"] == [3, 4]
    assert [e["step"] for e in events if "sha256" in e and e["event"] == "sample"] == [2, 3, 4]
    assert_close(state_of(whole), state_of(tmp_path), exact=stage == 2)


def test_two_ranks_take_the_same_steps(
    whole: Path, tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    """Rank 0 alone scores pictures, also against those that are trained on."""
    job = full_job(tiny_folder, shards, tmp_path, validation_step_interval=2)
    job["clip_dir"] = str(write_tiny_clip(tmp_path / "clip"))
    process = start_train(job, tmp_path, ranks=2)

    assert process.wait(timeout=300) == 0, (tmp_path / "output.log").read_text()

    assert_is_result(tmp_path / "output" / "result", state_of(tmp_path))
    events = events_in(tmp_path)
    assert events[-1]["event"] == "finished"
    pictures = [e for e in events if "sha256" in e and e["event"] == "sample"]
    assert [each["step"] for each in pictures] == [0, 2, 4]
    training = training_pictures(Job.model_validate(job))
    for each in pictures:
        near = cosines(tmp_path / "clip", tmp_path / "output" / each["path"], training).max()
        assert each["similarity"] == pytest.approx(near.item(), abs=2e-6)
    assert_close(state_of(whole), state_of(tmp_path), exact=False)
    firsts = [
        {
            name: value
            for name, value in next(e for e in events_in(folder) if e["event"] == "step").items()
            if name.startswith("loss") or name == "grad_norm"
        }
        for folder in (whole, tmp_path)
    ]
    assert "grad_norm" in firsts[0]
    assert any(name.startswith("loss_sigma") for name in firsts[0])
    assert firsts[1] == pytest.approx(firsts[0], rel=1e-3)
    alone, shared = (evaluations(events_in(folder)) for folder in (whole, tmp_path))
    assert [event["step"] for event in shared] == [event["step"] for event in alone] == [0, 2, 4]
    for name in ("mean", "low", "high", "by_sigma"):  # of equal weights: bit for bit
        assert shared[0][name] == alone[0][name]
    assert [each["mean"] for each in shared] == pytest.approx(
        [each["mean"] for each in alone], rel=1e-3
    )
    assert_resumes(tmp_path / "output", tiny_folder, shards, tmp_path / "resumed")


def assert_resumes(ended: Path, tiny_folder: Path, shards: Path, folder: Path) -> None:
    """One process goes on from the first checkpoint of two, and ends as they did."""
    folder.mkdir()
    job = full_job(tiny_folder, shards, folder, zero_stage=3)
    job["resume_from"] = str(ended / "checkpoints/step-00000002")
    assert len(read_manifest(Path(job["resume_from"])).files) == 2

    status, events = train(job, folder)

    assert status == 0, (folder / "output.log").read_text()
    assert [e["step"] for e in events if e["event"] == "step"] == [3, 4]
    assert_close(state_of(ended.parent), state_of(folder), exact=False)


def test_two_ranks_stop_at_the_same_step_and_save_it(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    job = full_job(tiny_folder, shards, tmp_path, max_train_steps=500, checkpoint_step_interval=500)
    process = start_train(job, tmp_path, ranks=2)
    wait_for_event(process, tmp_path, lambda e: e["event"] == "step")

    write_control(tmp_path / "control", ControlRequest.STOP)

    assert process.wait(timeout=60) == 75, (tmp_path / "output.log").read_text()
    events = events_in(tmp_path)
    assert events[-1]["event"] == "stopped", (tmp_path / "output.log").read_text()
    (checkpoint,) = committed_checkpoints(tmp_path / "output/checkpoints")
    assert read_manifest(checkpoint).step == events[-1]["step"]
    assert state_of(tmp_path, events[-1]["step"]).keys() >= {"optim/x_embedder.proj.bias/step"}


def assert_is_result(result: Path, state: dict[str, torch.Tensor]) -> None:
    """The result has the weights of the last checkpoint."""
    for name, weight in load_transformer(result, torch.float32).named_parameters():
        assert torch.equal(weight, state[f"param/{name}"]), name


def assert_close(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], *, exact: bool
) -> None:
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if exact:
            assert torch.equal(value, found[name]), name
        else:
            torch.testing.assert_close(value, found[name], atol=2e-5, rtol=1e-2, msg=name)
