"""Makes the painting model from nothing: draws its pictures, trains its VAE, then its transformer.

The transformer is trained by the trainer of every run, with all its weights, from a folder of
pictures and files of SimpleTuner's options. A second call in the same folder makes neither the VAE
nor the cache entries again, and goes on with an interrupted run of as many steps.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, HiDreamImageTransformer2DModel
from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel, read_base_model
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.local.data import scan
from trainer_core.local.run import LocalRun, train_locally
from trainer_core.local.unusable import usable_index
from trainer_core.painter.cache import encode_in_batches
from trainer_core.painter.dataset import drawings, scenes_of, write_dataset
from trainer_core.painter.judging import (
    GUIDANCE,
    STEPS,
    Device,
    judge,
    shares_of,
    sheet_of,
)
from trainer_core.painter.model import (
    NAME,
    TRANSFORMER,
    build_transformer,
    build_vae,
    write_model,
)
from trainer_core.painter.scales import Scale
from trainer_core.painter.vae_training import Pictures, normalise, train_vae
from trainer_core.process.control import Control
from trainer_core.process.events import Event, parse_event
from trainer_core.progress import SilentReporter

_DATA_SEED: Final = 1
_JUDGE_SEED: Final = 2
_HELD_OUT_FOR_VAE: Final = 96
_LOG_EVERY_STEPS: Final = 100
_TIMED_STEPS: Final = 80
_VAE_SHARE: Final = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Where and how the model is made."""

    folder: Path
    """Gets ``model`` and ``report.json``, and the work of each stage in folders beside them."""
    scale: Scale
    device: Device
    processes: int
    """That draw pictures."""
    log: Callable[[str], None]
    train_s: float | None = None
    """The transformer takes as many steps as fit into this time, and the VAE at most a quarter of
    it; None: as many steps as the scale has."""


def make(recipe: Recipe) -> Mapping[str, JsonValue]:
    """Make the model; returns what ``report.json`` says of it: seconds and shares of pictures.

    Raises TrainerError where the training fails.
    """
    started_s = time.monotonic()
    report: dict[str, Any] = {"seconds": {}}
    recipe.folder.mkdir(parents=True, exist_ok=True)

    def ended(stage: str, **facts: JsonValue) -> None:
        nonlocal started_s
        now_s = time.monotonic()
        report["seconds"][stage] = round(now_s - started_s, 1)
        started_s = now_s
        report.update(facts)
        text = json.dumps(report, indent=2)
        (recipe.folder / "report.json").write_text(text + "\n", encoding="utf-8")
        recipe.log(f"{stage}: {report['seconds'][stage]} s {json.dumps(facts) if facts else ''}")

    pictures = _draw(recipe)
    ended("draw", pictures=sum(len(each) for each in pictures.values()))
    start, quality = _start_model(recipe, pictures)
    ended("vae", **quality)
    ended("encode", entries=_encode(recipe, start))
    if recipe.train_s is not None:
        steps = _steps_in(recipe, recipe.train_s)
        recipe = replace(recipe, scale=replace(recipe.scale, steps=steps))
        ended("time_steps")
    _train(recipe, recipe.folder / "run")
    ended("train", steps=recipe.scale.steps)
    model = _finish(recipe, start)
    ended("write", digest=model.digest, size_bytes=_size_of(model.folder))
    ended("judge", **_judge(recipe, model.folder))
    return report


def _draw(recipe: Recipe) -> Pictures:
    """Draw the pictures and write them as a data set; returns them by size."""
    scale, folder = recipe.scale, recipe.folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    wanted = drawings(scale.pictures, _DATA_SEED, scale, held_out=False)
    drawn = write_dataset(folder, wanted, recipe.processes)
    by_size: dict[tuple[int, int], list[torch.Tensor]] = {}
    for (_, size, _), levels in zip(wanted, drawn, strict=True):
        by_size.setdefault(size, []).append(torch.tensor(levels).permute(2, 0, 1))
    return {size: torch.stack(each) for size, each in by_size.items()}


def _start_model(recipe: Recipe, pictures: Pictures) -> tuple[Path, Mapping[str, JsonValue]]:
    """The base model that the run starts from: a trained VAE and an untrained transformer."""
    folder, scale = recipe.folder / "start", recipe.scale
    notes = recipe.folder / "vae.json"
    if notes.exists():
        found: dict[str, JsonValue] = json.loads(notes.read_bytes())
        return folder, found
    each = max(1, _HELD_OUT_FOR_VAE // len(pictures))
    device = torch.device(recipe.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_DATA_SEED)
        vae = build_vae(scale.vae_channels)
        vae = train_vae(
            vae,
            {size: images[each:] for size, images in pictures.items()},
            steps=scale.vae_steps,
            batch_px=scale.vae_batch_px,
            device=device,
            log=recipe.log,
            limit_s=math.inf if recipe.train_s is None else _VAE_SHARE * recipe.train_s,
        )
    quality = normalise(vae, {size: images[:each] for size, images in pictures.items()})
    config = {**TRANSFORMER, **scale.transformer}
    write_model(folder, vae, build_transformer(config), f"{NAME}-start")
    facts: dict[str, JsonValue] = {
        "psnr_db": round(quality.psnr_db, 2),
        "latent_mean": round(quality.latent_mean, 4),
        "latent_std": round(quality.latent_std, 4),
    }
    notes.write_text(json.dumps(facts), encoding="utf-8")
    return folder, facts


def _encode(recipe: Recipe, start: Path) -> int:
    """Fill the run's cache in batches; the run itself then finds every entry."""
    run = _run(recipe, recipe.folder / "run")
    imported = import_run(
        config=run.config,
        lycoris_config=None,
        data_backends=run.data_backends,
        prompt_library=None,
        base_models={str(start): read_base_model(start)},
        source="local",
    )
    plan, reporter = imported.plan, SilentReporter()
    cache = _cache(recipe)
    folders = {each.id: recipe.folder / "pictures" / each.id for each in plan.identity.backends}
    data = scan(plan, folders, cache / "pictures.json", reporter)
    index = usable_index(plan, read_base_model(start), data, cache, reporter)
    return encode_in_batches(cache, index, start, data.images, torch.device(recipe.device))


def _steps_in(recipe: Recipe, seconds: float) -> int:
    """How many steps fit into ``seconds`` on this machine, from a short run that is thrown away."""
    folder = recipe.folder / "timing"
    shutil.rmtree(folder, ignore_errors=True)
    _train(replace(recipe, scale=replace(recipe.scale, steps=_TIMED_STEPS)), folder)
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    times = [each.t_s for each in map(parse_event, lines) if each.name == "step"]
    rest = times[_TIMED_STEPS // 2 :]
    return max(_TIMED_STEPS, int(seconds * (len(rest) - 1) / (rest[-1] - rest[0])))


def _train(recipe: Recipe, folder: Path) -> None:
    def obey(_: Control) -> None:
        """Nobody stops the run but the signal that ends the process."""

    train_locally(_run(recipe, folder), os.environ, _View(recipe.log), obey)


def _run(recipe: Recipe, folder: Path) -> LocalRun:
    scale, work = recipe.scale, recipe.folder
    side = min(min(size) for size in scale.sizes_px)
    config: dict[str, JsonValue] = {
        "model_family": "hidream",
        "model_type": "full",
        "pretrained_model_name_or_path": str(work / "start"),
        "output_dir": str(folder),
        "data_backend_config": "given",
        "device": recipe.device,
        "seed": _DATA_SEED,
        "resolution": side,
        "resolution_type": "pixel",
        "train_batch_size": scale.batch_size,
        "max_train_steps": scale.steps,
        "num_train_epochs": 0,
        "learning_rate": scale.learning_rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": min(200, scale.steps // 10),
        "lr_end": scale.learning_rate / 50,
        "optimizer": "adamw_bf16",
        "optimizer_beta1": 0.9,
        "optimizer_beta2": 0.98,
        "adam_weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "grad_clip_method": "norm",
        "use_ema": True,
        "ema_decay": 0.999,
        "ema_device": "accelerator",
        # A CPU may multiply bf16 many times more slowly.
        "mixed_precision": "bf16" if recipe.device == "cuda" else "no",
        "base_model_precision": "no_change",
        "gradient_checkpointing": False,
        "caption_dropout_probability": 0.1,
        "flow_use_uniform_schedule": True,
        "flow_schedule_shift": 2.0,
        "pad_compat": True,
        "checkpoint_step_interval": max(1000, scale.steps // 2),
        "checkpoints_total_limit": 1,
        "validation_prompt": "a large plain red circle at the centre on a white background",
        "validation_resolution": "x".join(map(str, scale.sizes_px[0])),
        "validation_num_inference_steps": STEPS,
        "validation_guidance": GUIDANCE,
        "report_to": "none",
    }
    sides = sorted({min(size) for size in scale.sizes_px})
    backends: list[JsonValue] = [_backend(work, side) for side in sides]
    backends.append(
        {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True}
    )
    return LocalRun(
        config=config,
        lycoris_config=None,
        data_backends=backends,
        prompt_library=None,
        folders=(work,),
        output_dir=folder,
        cache_dir=_cache(recipe),
        events=None,
        control=None,
    )


def _backend(work: Path, side_px: int) -> JsonValue:
    id_ = f"{side_px}px"
    return {
        "id": id_,
        "type": "local",
        "instance_data_dir": str(work / "pictures" / id_),
        "resolution": side_px,
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "crop": False,
        "caption_strategy": "textfile",
        "metadata_backend": "discovery",
        "repeats": 0,
    }


def _cache(recipe: Recipe) -> Path:
    return recipe.folder / "cache"


def _finish(recipe: Recipe, start: Path) -> BaseModel:
    """The whole base model: the start's other parts, and the transformer of the run's result."""
    result = recipe.folder / "run" / "result" / "transformer"
    transformer = HiDreamImageTransformer2DModel.from_pretrained(result, torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32)
    return write_model(recipe.folder / "model", vae, transformer)


def _judge(recipe: Recipe, model: Path) -> Mapping[str, JsonValue]:
    scale = recipe.scale
    scenes = scenes_of(scale, _JUDGE_SEED, held_out=True)[: scale.judged]
    judged = judge(model, scenes, scale.sizes_px, device=recipe.device, log=recipe.log)
    sheet_of(judged).save(recipe.folder / "judged.png")
    return {"judged": len(judged), **shares_of(judged)}


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


class _View:
    """Passes on what the run reports, and its loss now and then."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def log(self, text: str) -> None:
        self._log(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Every stage is short here but the training, which has events."""

    def event(self, event: Event) -> None:
        if event.name != "step" or event.step % _LOG_EVERY_STEPS == 0:
            self._log(f"{event.name} {event.step} {json.dumps(event.data)[:300]}")
