"""`python -m trainer_core train` where the run cannot go on: what it reports, and what it keeps."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import change_entry
from tests.support.small_jobs import Small, named
from tests.support.zygote import Zygote
from trainer_core.checkpoint.folders import committed_checkpoints
from trainer_core.data.entry_files import entry_name, wanted_folder
from trainer_core.data.index import DataIndex, Picture


@pytest.mark.parametrize("poison", ["all pictures", "one picture"])
def test_a_loss_that_is_not_a_number_before_the_first_step_ends_the_run_there(
    zygote: Zygote, small: Small, tmp_path: Path, poison: str
) -> None:
    job = small()
    picture = None if poison == "all pictures" else "astronaut_shuttle.jpg"
    job["shards_dir"] = str(_poisoned(job, tmp_path, picture))

    status, events = zygote.train(job, tmp_path)

    assert status == 1
    assert events[-1].items() >= {"event": "failed", "code": "non_finite_loss", "step": 0}.items()
    message = events[-1]["message"]
    assert message.startswith("the loss measured before the first step is not finite for ")
    assert ("photos: astronaut_shuttle.jpg: look at" in message) == (picture is not None), message
    assert named(events, "eval")[0]["mean"] is None
    assert not named(events, "step")
    assert not list((tmp_path / "output").rglob("step-*"))


def test_the_last_good_checkpoint_is_kept_when_the_run_fails(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small(max_train_steps=2)
    status, _ = zygote.train(job, tmp_path)
    assert status == 0
    (checkpoint,) = committed_checkpoints(tmp_path / "output/checkpoints")
    before = (checkpoint / "state.safetensors").read_bytes()
    longer = small(max_train_steps=4)
    longer |= {"resume_from": str(checkpoint), "shards_dir": str(_poisoned(longer, tmp_path))}

    status, events = zygote.train(longer, tmp_path)

    assert (status, events[-1]["code"]) == (1, "non_finite_loss")
    assert "step 3" in events[-1]["message"]
    assert committed_checkpoints(tmp_path / "output/checkpoints") == [checkpoint]
    assert (checkpoint / "state.safetensors").read_bytes() == before


def test_an_update_that_overflows_is_not_saved(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small(max_train_steps=4, checkpoint_step_interval=1)
    # Loss and gradient are numbers; what they make of the weights is not.
    overflow = {"name": "adamw", "learning_rate": 1e37, "weight_decay": 100.0}
    job["plan"]["identity"]["optimizer"] |= overflow
    job["plan"]["identity"]["schedule"] |= {"name": "constant"}

    status, events = zygote.train(job, tmp_path)

    assert (status, events[-1]["code"]) == (1, "non_finite_loss")
    assert "step 1: after the update" in events[-1]["message"]
    assert not committed_checkpoints(tmp_path / "output/checkpoints")


def _poisoned(job: dict[str, Any], folder: Path, picture: str | None = None) -> Path:
    """The job's entries; latents of this picture, or of all, are not a number."""
    poisoned = folder / "poisoned"
    shutil.copytree(job["shards_dir"], poisoned)
    index = DataIndex.model_validate(job["index"])
    for entry in index.entries:
        if isinstance(entry.content, Picture) and picture in (None, entry.content.path):
            change_entry(poisoned / entry_name(entry.digest), "latents", _poison)
    return poisoned


def _poison(tensors: dict[str, Any]) -> None:
    tensors["mean"].fill_(float("nan"))


def test_several_processes_need_deepspeed(zygote: Zygote, small: Small, tmp_path: Path) -> None:
    job = small(base_model_precision="no_change", gradient_accumulation_steps=2)
    job["plan"]["identity"] |= {"model_type": "full", "adapter": None, "clip": None}

    status, events = zygote.train(job, tmp_path, {"WORLD_SIZE": "2"})

    assert (status, events[-1]["code"]) == (1, "bad_device")
    assert "zero_stage" in events[-1]["message"]


@pytest.mark.parametrize("name", ["prodigy", "bnb-lion8bit-paged"])
def test_an_optimizer_that_cannot_be_sharded_is_refused(
    zygote: Zygote, small: Small, tmp_path: Path, name: str
) -> None:
    job = small(base_model_precision="no_change")
    job["plan"]["identity"] |= {"model_type": "full", "adapter": None}
    job["plan"]["identity"]["optimizer"]["name"] = name
    job["plan"]["operation"]["zero_stage"] = 2

    status, events = zygote.train(job, tmp_path)

    assert (status, events[-1]["code"]) == (1, "bad_device")
    assert f"{name} cannot be sharded" in events[-1]["message"]


def test_a_missing_entry_is_requested_and_then_fails_the_run(
    zygote: Zygote, small: Small, tmp_path: Path
) -> None:
    job = small()
    empty = tmp_path / "empty"
    empty.mkdir()
    job |= {"shards_dir": str(empty), "shard_wait_s": 0.2}

    status, events = zygote.train(job, tmp_path)

    assert status == 1
    assert events[-1].items() >= {"code": "shard_missing", "retryable": True}.items()
    assert len(list(wanted_folder(empty).iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_model_dir": "/nowhere"}, "bad_base_model"),
        ({"resume_from": "/nowhere"}, "bad_checkpoint"),
        ({"shard_wait_s": -1}, "bad_job"),
    ],
)
def test_a_fault_of_the_job_is_the_last_event(
    zygote: Zygote, small: Small, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    status, events = zygote.train(small() | change, tmp_path)

    assert status == 1
    assert events[-1]["event"] == "failed"
    assert events[-1]["code"] == code
