"""The benchmark of starts runs, on the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.start.folder import Setting, make_base
from trainer_core.base_models.known import KNOWN_MODELS, TINY_NAME, PartConfigs
from trainer_core.hidream.loading import empty_transformer
from trainer_core.weights.part import stored_tensors

SMALL = PartConfigs(
    transformer=KNOWN_MODELS[TINY_NAME].transformer,
    text_encoders=(None,) * 4,
    vae={"block_out_channels": [8] * 4, "norm_num_groups": 4, "latent_channels": 16},
)


@pytest.mark.deep
def test_a_start_is_timed_part_by_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.start", "--folder", str(tmp_path), "--tiny"]
    command += ["--edge-px", "64", "--cases", "published-cold"]

    run = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip

    made, case = (json.loads(line) for line in run.stdout.splitlines())
    assert made["case"] == "make"
    assert (case["case"], case["weights"]) == ("published-cold", "published")
    parts = [
        *("process_s", "vae_s", "weights_s", "network_s", "optimizer_s"),
        *("resume_s", "validation_s", "first_step_s"),
    ]
    assert abs(case["total_s"] - sum(case[part] for part in parts)) < 0.02
    assert case["process_s"] > 0.1


def test_random_weights_have_the_shapes_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.start.folder.PUBLISHED", SMALL)
    setting = Setting(folder=tmp_path, layers=3, sizes_px=((64, 64),), precision="8bit")

    make_base(setting)

    model = empty_transformer(setting.base, torch.bfloat16)
    assert (len(model.double_stream_blocks), len(model.single_stream_blocks)) == (1, 2)
    stored = stored_tensors(setting.base / "transformer")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: each.shape for name, each in stored.items()} == expected
    assert len({each.file for each in stored.values()}) == 7
