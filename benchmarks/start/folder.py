"""A base model of random weights on the disk, and a job that trains on random data."""

import itertools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImageTransformer2DModel,
)

from benchmarks.step.plans import LEARNING_RATE
from benchmarks.step.setting import CAPTION_TOKENS
from benchmarks.trainer_matrix import EXAMPLES
from trainer_core.base_models.describe import read_base_model, write_description
from trainer_core.base_models.known import PUBLISHED
from trainer_core.config.plan import Plan
from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.data.entries import encoded, write_entry
from trainer_core.data.entry_files import entry_name
from trainer_core.data.index import Entry, FileItem, Picture
from trainer_core.data.indexing import build_index
from trainer_core.data.text_rows import to_fp8
from trainer_core.documents import load_document
from trainer_core.hidream.testing.tiny import make_tiny
from trainer_core.process.job import Job, write_job
from trainer_core.process.node_cache import NodeCache
from trainer_core.weights.headers import header_of
from trainer_core.weights.transfer import write_tensors

_FILES: Final = 7
"""As many as HiDream-I1 is published in."""
_STD: Final = 0.02
_CELL_PX: Final = 8
_KEEPING_S: Final = 900
_PRECISIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "8bit": {"base_model_precision": "int8-quanto"},
    "bf16": {"base_model_precision": "no_change"},
    "fp32": {"base_model_precision": "no_change", "mixed_precision": "no"},
}
"""Name → entries of SimpleTuner's config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is started."""

    folder: Path
    """Holds everything that is written."""
    layers: int | None
    """Blocks of the transformer, a third of them with two streams; None: the tiny model."""
    sizes_px: tuple[tuple[int, int], ...]
    """Width and height of each bucket: multiples of 64."""
    precision: str
    """``8bit``, ``bf16`` or ``fp32``."""
    pictures: int = 4
    """Of each size in turn; each has a caption of its own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of SimpleTuner's config."""

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def node_cache(self) -> NodeCache:
        return NodeCache(folder=str(self.folder / "node-cache"), limit_bytes=64 << 30)


def make_base(setting: Setting) -> None:
    """Write the base model's folder, unless it is there."""
    base = setting.base
    if (base / "reverie-base.json").is_file():
        return
    if setting.layers is None:
        make_tiny(base)
        return
    part = base / "transformer"
    part.mkdir(parents=True)
    with torch.device("meta"):
        model = HiDreamImageTransformer2DModel.from_config(_config(setting.layers))
    model.save_config(part)
    _write_weights(part, {name: tuple(p.shape) for name, p in model.named_parameters()})
    vae = AutoencoderKL.from_config(
        {**dict(PUBLISHED.vae or {}), "shift_factor": 0.1159, "scaling_factor": 0.3611,
         "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    )  # fmt: skip
    vae.save_pretrained(base / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(base / "scheduler")
    # Random weights need no hash: their number names them.
    write_description(base, f"random-{setting.layers}", {}, digest_of(["random", setting.layers]))


def make_job(setting: Setting, folder: Path, resume_from: Path | None = None) -> Path:
    """Write a job and its cache entries; the job's file.

    Args:
        setting: what is trained.
        folder: of the job's file and output.
        resume_from: folder of a checkpoint.
    """
    base = read_base_model(setting.base)
    plan = _plan(setting)
    index = build_index(plan, list(_items(setting)), base.transformer_config)
    made_px = {(sample.width_px, sample.height_px) for sample in index.samples}
    if made_px != set(setting.sizes_px):
        raise ValueError(f"pictures of {setting.sizes_px} pixels become {sorted(made_px)}")
    entries = setting.folder / "entries"
    entries.mkdir(exist_ok=True)
    for position, entry in enumerate(index.entries):
        path = entries / entry_name(entry.digest)
        if not path.exists():
            tensors = _random_entry(entry, base.transformer_config)
            if index.encodings[entry.encoding].encoder.get("rows") == "fp8":
                tensors = to_fp8(tensors)
            write_entry(path, encoded(index.kind_of(position), tensors))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.json"
    job = Job(
        plan=plan,
        index=index,
        base_model_dir=str(setting.base),
        shards_dir=str(entries),
        output_dir=str(folder / "output"),
        resume_from=None if resume_from is None else str(resume_from),
        shard_wait_s=10,
        node_cache=setting.node_cache,
    )
    write_job(file, job)
    return file


def forget_pages(folder: Path) -> None:
    """Take the files of a folder out of the page cache. Other files stay in it."""
    for file in folder.rglob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def await_kept(cache: NodeCache) -> None:
    """Wait until 8-bit weights that a process keeps are on the disk. Raises TimeoutError."""
    deadline_s = time.monotonic() + _KEEPING_S
    while (cache.weights_dir / ".draft").exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the weights are not kept")
        time.sleep(0.1)


def _config(layers: int) -> dict[str, Any]:
    published = dict(PUBLISHED.transformer)
    double = max(layers // 3, 1)
    return {
        **published,
        "num_layers": double,
        "num_single_layers": layers - double,
        "llama_layers": published["llama_layers"][:layers],
    }


def _write_weights(part: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """bf16 weights in files of about the same size, with their index."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    groups: list[list[str]] = [[] for _ in range(_FILES)]
    done = 0
    for name, shape in shapes.items():
        groups[min(done * _FILES // total, _FILES - 1)].append(name)
        done += torch.Size(shape).numel()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = part / f"diffusion_pytorch_model-{number:05d}-of-{_FILES:05d}.safetensors"
        tensors = {
            name: torch.randn(shapes[name], device=device, dtype=torch.bfloat16).mul_(_STD)
            for name in names
        }
        header, places = header_of(tensors, file)
        file.write_bytes(header)
        write_tensors(file, places, tensors)
        weight_map |= dict.fromkeys(names, file.name)
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _plan(setting: Setting) -> Plan:
    base = read_base_model(setting.base)
    demo = EXAMPLES / "demo"
    raw: Any = load_document(demo / "config.json")
    lycoris: Any = load_document(demo / "lycoris_config.json")
    config = {
        **raw,
        "pretrained_model_name_or_path": base.name,
        "validation_resolution": "{}x{}".format(*setting.sizes_px[0]),
        "learning_rate": LEARNING_RATE,
        "device": "auto",
        **_PRECISIONS[setting.precision],
        **setting.options,
    }
    # The buckets of one backend have about the same area, so each size has a backend of its own.
    backends = [
        {"id": _backend(size_px), "caption_strategy": "filename", "resolution": _edge_px(size_px)}
        for size_px in setting.sizes_px
    ]
    return import_run(
        config=config,
        lycoris_config=lycoris,
        data_backends=backends,
        prompt_library=None,
        base_models={base.name: base},
        source="http",
    ).plan


def _backend(size_px: tuple[int, int]) -> str:
    return "{}x{}".format(*size_px)


def _edge_px(size_px: tuple[int, int]) -> int:
    """Edge of the square of the same area."""
    return round(math.sqrt(math.prod(size_px)))


def _items(setting: Setting) -> Iterator[FileItem]:
    sizes_px = itertools.cycle(setting.sizes_px)
    for number, size_px in zip(range(setting.pictures), sizes_px, strict=False):
        yield FileItem(
            backend=_backend(size_px),
            path=f"{number}.png",
            sha256=f"{number:064d}",
            width_px=size_px[0],
            height_px=size_px[1],
            captions=(f"picture {number}",),
        )


def _random_entry(entry: Entry, transformer: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(int(entry.digest[:8], 16))

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    if isinstance(entry.content, Picture):
        cut = entry.content.geometry
        cells = cut.height_px // _CELL_PX, cut.width_px // _CELL_PX
        mean = normal(1, transformer["in_channels"], *cells, dtype=torch.float32)
        return {"mean": mean, "std": torch.full_like(mean, 0.05)}
    t5, llama = transformer["caption_channels"]
    layers = max(transformer["llama_layers"]) + 1
    return {
        "t5": normal(1, CAPTION_TOKENS, t5),
        "llama": normal(1, layers, CAPTION_TOKENS, llama),
        "pooled": normal(1, transformer["text_emb_dim"]),
    }
