"""`reverie train` as a user starts it, on a small project of the example photographs."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.forking import TRAINING, Process, start_module
from tests.support.jobs import EXAMPLES, short_caption
from trainer_core.documents import load_document

_PICTURES = {"train": ("grass", "retina", "espresso_cup"), "held_out": ("cat",)}


def make_project(folder: Path, **options: Any) -> Path:
    """The demo's files, cut down, in ``folder/config``, which is returned; beside it photographs.

    Everything is named relative to ``folder``. ``options`` replace entries of config.json.
    """
    config_dir = folder / "config"
    shutil.copytree(EXAMPLES / "demo", config_dir)
    for place, names in _PICTURES.items():
        (folder / "photos" / place).mkdir(parents=True)
        for name in names:
            photo = folder / "photos" / place / f"{name}.jpg"
            shutil.copy(EXAMPLES / "photos" / place / photo.name, photo)
            photo.with_suffix(".txt").write_text(short_caption(photo))
    backends: Any = load_document(config_dir / "multidatabackend.json")
    for backend, place in zip(backends[:2], _PICTURES, strict=True):
        sizes = ("resolution", "minimum_image_size", "maximum_image_size", "target_downsample_size")
        backend |= {**dict.fromkeys(sizes, 64), "instance_data_dir": f"photos/{place}"}
    (config_dir / "multidatabackend.json").write_text(json.dumps(backends))
    raw: Any = load_document(config_dir / "config.json")
    few = {
        "max_train_steps": 8,
        "checkpoint_step_interval": 3,
        "lr_warmup_steps": 2,
        "resolution": 64,
        "validation_resolution": "64x64",
        "validation_num_inference_steps": 1,
        "eval_steps_interval": 0,
        "validation_step_interval": 0,
    }
    (config_dir / "config.json").write_text(json.dumps({**raw, **few, **options}))
    return config_dir


def start(config_dir: Path, output: Path, models_dir: Path, *arguments: str, **env: str) -> Process:
    """Start the command; stdout and stderr go to ``output.out`` and ``output.log`` beside it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    own = {
        **os.environ,
        **dict(TRAINING.env),
        "REVERIE_MODELS_DIR": str(models_dir),
        **env,
    }
    argv = ["train", "--config", str(config_dir), "--output", str(output), *arguments]
    with (
        output.with_suffix(".out").open("wb") as said,
        output.with_suffix(".log").open("ab") as log,
    ):
        return start_module(
            "services.cli.main",
            argv,
            env=own,
            output=said,
            errors=log,
            folder=output.parent,
            kind=TRAINING,
        )


def train(
    config_dir: Path, output: Path, models_dir: Path, *arguments: str, **env: str
) -> tuple[int, str]:
    """Run to the end; returns the exit status and stdout."""
    status = start(config_dir, output, models_dir, *arguments, **env).wait(timeout=240)
    return status, output.with_suffix(".out").read_text()


def log_of(output: Path) -> str:
    return output.with_suffix(".log").read_text()


def adapter_of(output: Path) -> dict[str, bytes]:
    """Name → bytes of every tensor of the result; the order in the file does not matter."""
    from safetensors import safe_open

    with safe_open(output / "result" / "pytorch_lora_weights.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def entry_times(output: Path) -> Mapping[str, int]:
    """File name of every cache entry → its time of change."""
    return {p.name: p.stat().st_mtime_ns for p in (output / "cache").glob("*.safetensors")}
