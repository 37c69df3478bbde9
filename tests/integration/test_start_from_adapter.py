"""A run that starts from the result or a checkpoint of another one, as a process."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.adapters import exported
from tests.support.jobs import Event
from tests.support.small_jobs import STEPS, Small, named, small_job
from tests.support.zygote import Zygote
from trainer_core.checkpoint.identity import check_checkpoint, checkpoint_identity
from trainer_core.config.plan import LokrAdapter
from trainer_core.engine.setup import load_run
from trainer_core.errors import AdapterFileError, CheckpointError
from trainer_core.process.control import Control
from trainer_core.process.job import BadJobError, Job

ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def first(
    zygote: Zygote,
    tiny_folder: Path,
    small_shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Event]]:
    """Output folder and events of a run that keeps a running mean."""
    folder = tmp_path_factory.mktemp("first")
    job = small_job(tiny_folder, small_shards, folder, use_ema=True, ema_decay=0.9)
    status, events = zygote.train(job, folder)
    assert status == 0, (folder / "output.log").read_text()[-2000:]
    return folder / "output", events


def started(job: dict[str, Any], place: Path, file: Path) -> dict[str, Any]:
    """The job, from the adapter at ``place``."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    identity = {**job["plan"]["identity"], "start_adapter": {"sha256": sha256}}
    return {**job, "plan": {**job["plan"], "identity": identity}, "start_from": str(place)}


def losses(events: list[Event]) -> list[float]:
    return [event["mean"] for event in named(events, "eval")]


def loaded(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The trained tensors before the first step, by logical name."""
    parsed = Job.model_validate_json(json.dumps(job))
    return dict(load_run(parsed, Control(None)).network.trained)


@pytest.mark.parametrize("source", ["result", "checkpoint"])
def test_it_loads_the_tensors_of_the_other_one(
    source: str, first: tuple[Path, list[Event]], small: Small
) -> None:
    output, _ = first
    place = output / "result"
    file = place / ADAPTER
    if source == "checkpoint":
        place = output / "checkpoints" / f"step-{STEPS:08d}"
        file = place / "state.safetensors"
    job = started(small(use_ema=True, ema_decay=0.9), place, file)

    trained = loaded(job)

    adapter = Job.model_validate_json(json.dumps(job)).plan.identity.adapter
    assert isinstance(adapter, LokrAdapter)
    written, stored = exported(trained, adapter), load_file(output / "result" / ADAPTER)
    assert written.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in written.items())


def test_it_starts_where_the_other_one_ended_and_is_resumed_without_the_file(
    first: tuple[Path, list[Event]], small: Small, zygote: Zygote, tmp_path: Path
) -> None:
    output, events = first
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((output / "result" / ADAPTER).read_bytes())
    job = started(small(), copy, copy)

    status, again = zygote.train(job, tmp_path)

    assert status == 0, (tmp_path / "output.log").read_text()[-2000:]
    before, after = losses(again)
    assert losses(events)[0] > losses(events)[1] == before != after
    assert [event["step"] for event in named(again, "step")] == [1, 2, 3]

    copy.unlink()
    with pytest.raises(AdapterFileError, match="there is no "):
        loaded(job)
    checkpoint = Path(job["output_dir"]) / "checkpoints" / "step-00000002"
    resumed = {
        **job, "output_dir": str(tmp_path / "resumed" / "output"), "resume_from": str(checkpoint)
    }  # fmt: skip
    status, events = zygote.train(resumed, tmp_path / "resumed")

    assert status == 0, events[-1]
    ended, wanted = (
        load_file(Path(each["output_dir"]) / "result" / ADAPTER) for each in (resumed, job)
    )
    assert all(torch.equal(ended[name], tensor) for name, tensor in wanted.items())
    # Without the adapter it is another run.
    plain = Job.model_validate_json(json.dumps(small()))
    with pytest.raises(CheckpointError, match="init_lora: absent here, set in the checkpoint"):
        check_checkpoint(checkpoint, checkpoint_identity(plain))


def test_another_file_than_the_planned_one_is_refused(
    first: tuple[Path, list[Event]], small: Small
) -> None:
    output, _ = first
    file = output / "result" / ADAPTER
    job = started(small(), file, file)

    with pytest.raises(BadJobError, match="the job names no file"):
        loaded({**job, "start_from": None})
    other = output / "checkpoints" / f"step-{STEPS:08d}"
    with pytest.raises(AdapterFileError, match="has changed since the run was planned"):
        loaded({**job, "start_from": str(other)})
