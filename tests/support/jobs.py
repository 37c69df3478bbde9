"""Training jobs on the tiny model with real photographs, their entries already encoded."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from tests.support.forked_training import child_command
from tests.support.forking import TRAINING, Process, server_of, start_module
from trainer_core.base_models.describe import BaseModel, read_base_model
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.data.captions import captions_of
from trainer_core.data.images import inspect_image
from trainer_core.data.index import DataIndex, EntryKind, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.documents import load_document
from trainer_core.progress import SilentReporter
from trainer_core.weights.entries import read_entries

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_PHOTOS = {"photos": EXAMPLES / "photos" / "train", "held-out": EXAMPLES / "photos" / "held_out"}
_TOKENS = 8
_SIZES = ("resolution", "minimum_image_size", "maximum_image_size", "target_downsample_size")

_LAUNCHER = (
    *("launch", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
    "--nproc-per-node",
)

Event = dict[str, Any]


def demo_plan(base: BaseModel, *, edge_px: int, **options: JsonValue) -> Plan:
    """The demo's plan, without pictures while it trains.

    ``options`` replace entries of its config, None takes one out.
    """
    demo = EXAMPLES / "demo"
    backends: Any = load_document(demo / "multidatabackend.json")
    for backend in backends:
        backend.update({key: edge_px for key in _SIZES if key in backend})
    small = {
        "resolution": edge_px,
        "validation_resolution": f"{edge_px}x{edge_px}",
        "validation_num_inference_steps": 2,
        "validation_step_interval": None,
        "eval_steps_interval": None,
    }
    raw: Any = load_document(demo / "config.json")
    config = {k: v for k, v in {**raw, **small, **options}.items() if v is not None}
    lycoris: Any = load_document(demo / "lycoris_config.json")
    return import_run(
        config=config,
        lycoris_config=None if config["model_type"] == "full" else lycoris,
        data_backends=backends,
        prompt_library=None,
        base_models={base.name: base},
        source="http",
    ).plan


def short_caption(photo: Path) -> str:
    """A few words for an example photograph: its own caption takes most of a tiny model's time."""
    return photo.stem.replace("_", " ")


def photo_items(plan: Plan, count: int | None = None) -> list[FileItem]:
    """The example photographs with short captions; ``count`` of each backend."""
    items = []
    for backend in plan.identity.backends:
        folder = _PHOTOS[backend.id]
        for path in sorted(folder.glob("*.jpg"))[:count]:
            facts = inspect_image(path, name=path.name)
            items.append(
                FileItem(
                    backend=backend.id,
                    path=path.name,
                    sha256=_sha256(path),
                    width_px=facts.width_px,
                    height_px=facts.height_px,
                    captions=captions_of(backend, path.name, short_caption(path)),
                )
            )
    return items


def write_entries(index: DataIndex, base: BaseModel, folder: Path) -> None:
    """Encode the entries that do not exist yet."""
    import torch

    from trainer_core.hidream.parts import ModelParts
    from trainer_core.local.cache import fill_cache

    parts = ModelParts(base, torch.device("cpu"))
    pictures = {_sha256(p): p for place in _PHOTOS.values() for p in place.glob("*.jpg")}
    fill_cache(folder, index, parts, pictures, SilentReporter())


def change_entry(path: Path, kind: EntryKind, change: Callable[[dict[str, Any]], None]) -> None:
    """Write an entry again with the tensors that ``change`` has changed."""
    from safetensors.torch import load_file

    from trainer_core.data.entries import encoded, write_entry

    tensors = load_file(path)
    change(tensors)
    write_entry(path, encoded(kind, tensors))


def shorten_texts(folder: Path) -> None:
    """Keep only a few tokens of each cached caption: long ones take most of a tiny model's time."""
    for path in folder.glob("*.safetensors"):
        shapes = {name: each.shape for name, each in read_entries(path).entries.items()}
        if "llama" in shapes and shapes["t5"][1] > _TOKENS:
            change_entry(path, "text", _shorten)


def _shorten(tensors: dict[str, Any]) -> None:
    for name in ("t5", "t5_scale", "llama", "llama_scale"):
        if name in tensors:  # the scales are there where the cache has 8 bits
            tokens_at = 2 if name.startswith("llama") else 1
            tensors[name] = tensors[name].narrow(tokens_at, 0, _TOKENS)


def make_job(
    tiny: Path,
    shards: Path,
    folder: Path,
    *,
    edge_px: int = 128,
    count: int | None = None,
    **options: JsonValue,
) -> dict[str, Any]:
    """A job, complete with its entries, whose texts are short; ``options`` as in ``demo_plan``."""
    base = read_base_model(tiny)
    plan = demo_plan(base, edge_px=edge_px, **options)
    index = build_index(plan, photo_items(plan, count), base.transformer_config)
    write_entries(index, base, shards)
    shorten_texts(shards)
    return {
        "plan": plan.model_dump(mode="json"),
        "index": index.model_dump(mode="json"),
        "base_model_dir": str(tiny),
        "shards_dir": str(shards),
        "output_dir": str(folder / "output"),
        "resume_from": None,
        "shard_wait_s": 30,
    }


def start_train(
    job: Mapping[str, Any],
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    ranks: int = 1,
    fresh: bool = False,
) -> Process:
    """Start the train command; its events, control and output files are in ``folder``.

    Args:
        ranks: several are started by a launcher.
        fresh: no forks (see ``forking``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    argv = ["train", "--job", str(folder / "job.json")]
    argv += ["--events", str(folder / "events.jsonl"), "--control", str(folder / "control")]
    if ranks > 1:
        program = (
            ["-m", "trainer_core"] if fresh else child_command(server_of(TRAINING).address)[-2:]
        )
        argv = [*_LAUNCHER, str(ranks), *program, *argv]
    own = {**os.environ, **dict(TRAINING.env), **(env or {})}
    with (folder / "output.log").open("wb") as output:
        kind = None if fresh else TRAINING
        return start_module("trainer_core", argv, env=own, output=output, kind=kind)


def train(
    job: Mapping[str, Any],
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
) -> tuple[int, list[Event]]:
    """Run to the end; returns exit status and events."""
    process = start_train(job, folder, env, fresh=fresh)
    status = process.wait(timeout=240)
    return status, events_in(folder)


def events_in(folder: Path) -> list[Event]:
    """All complete events so far."""
    path = folder / "events.jsonl"
    body = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in body[: body.rfind(b"\n") + 1].splitlines()]


def wait_for_event(
    process: "Process | subprocess.Popen[str]", folder: Path, wanted: Callable[[Event], bool]
) -> Event:
    """Wait for the first matching event; fails when the process ends without it."""
    import time

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        is_over = process.poll() is not None
        for event in events_in(folder):
            if wanted(event):
                return event
        if is_over:
            break
        time.sleep(0.02)
    log = next((f for f in (folder / "output.log", folder.with_suffix(".log")) if f.exists()), None)
    raise AssertionError(log.read_text(errors="replace")[-2000:] if log else "no event, no log")


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
