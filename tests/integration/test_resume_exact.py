"""A run that was killed and resumed ends with the same bits as one that never was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import make_job, train

STEPS, HALF = 8, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def job_of(tiny: Path, shards: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    return make_job(
        tiny,
        shards,
        folder,
        edge_px=64,
        count=2,
        max_train_steps=STEPS,
        checkpoint_step_interval=HALF,
        lr_warmup_steps=6,
        caption_dropout_probability=0.3,
        **options,
    )


def state_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"output/checkpoints/step-{step:08d}/state.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {"base_model_precision": "int8-quanto"},
        {
            "base_model_precision": "no_change",
            "mixed_precision": "no",
            "optimizer": "adamw_bf16",
            "train_batch_size": 2,
            "gradient_accumulation_steps": 2,
        },
    ],
    ids=["int8 base, Lion", "fp32 base, AdamW, accumulation"],
)
def test_a_kill_changes_no_bit(
    tiny_folder: Path, shards: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    status, events = train(job_of(tiny_folder, shards, whole, options), whole)
    assert status == 0, (whole / "output.log").read_text()

    # Killed after two steps beyond the checkpoint: they are lost and taken again.
    job = job_of(tiny_folder, shards, broken, options)
    killed, before = train(job, broken, {"FAULT_AT": f"train.after_step@{HALF + 2}=kill"})
    assert killed == -9
    job["resume_from"] = str(broken / f"output/checkpoints/step-{HALF:08d}")
    status, resumed = train(job, broken)
    assert status == 0, (broken / "output.log").read_text()

    assert [e["step"] for e in before if e["event"] == "step"][-1] == HALF + 2 - 1
    expected, found = state_of(whole, STEPS), state_of(broken, STEPS)
    assert expected.keys() == found.keys()
    assert any(name.startswith("optim/") for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(expected[name].dtype is found[name].dtype for name in expected)
    for name in ("samples/0.png", "card.json"):
        result = "output/result"
        assert (whole / result / name).read_bytes() == (broken / result / name).read_bytes()
    adapters = [
        load_file(folder / "output/result/pytorch_lora_weights.safetensors")
        for folder in (whole, broken)
    ]
    assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())
    probes = [[e["losses"] for e in each if e["event"] == "eval"] for each in (events, resumed)]
    assert probes[0] == probes[1]
    assert [e["seq"] for e in resumed] == list(range(1, len(resumed) + 1))


def test_another_plan_cannot_go_on_from_it(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"base_model_precision": "int8-quanto"}
    first = job_of(tiny_folder, shards, tmp_path, options)
    killed, _ = train(first, tmp_path, {"FAULT_AT": "checkpoint.after_rename=kill"})
    assert killed == -9
    other = job_of(tiny_folder, shards, tmp_path, options | {"seed": 7})
    other["resume_from"] = str(tmp_path / f"output/checkpoints/step-{HALF:08d}")

    status, events = train(other, tmp_path / "other")

    assert status == 1
    assert events[-1]["code"] == "bad_checkpoint"
    assert "the plan's identity" in events[-1]["message"]
    manifest = Path(other["resume_from"]) / "manifest.json"
    assert json.loads(manifest.read_text())["scalars"]["threads"] == 1
