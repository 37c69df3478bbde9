"""Backends with options of sizes and crops, and images without pixels."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.unit.config_examples import import_small
from trainer_core.config.plan import Backend
from trainer_core.data.index import FileItem

TINY_PX, TRUE_PX = 256 * 256, 1024 * 1024
NAME = {"id": "a", "caption_strategy": "filename"}
RATIOS = [0.5, 0.75, 1.0, 4 / 3, 2.0]


def backend_of(config: dict[str, Any] | None = None, **options: Any) -> Backend:
    (backend,) = import_small(config, backends=[NAME | options]).plan.identity.backends
    return backend


def true_backend(**options: Any) -> Backend:
    """Of the true base model, whose buckets may have a million pixels."""
    config = {"pretrained_model_name_or_path": "HiDream-ai/HiDream-I1-Full", "resolution": 1024}
    return backend_of(config, **options)


def item(path: str, size: tuple[int, int], backend: str = "a") -> FileItem:
    return FileItem(
        backend=backend,
        path=path,
        sha256=hashlib.sha256(f"{backend}/{path}".encode()).hexdigest(),
        width_px=size[0],
        height_px=size[1],
        captions=() if backend == "m" else (path,),
    )


def coordinates(path: Path, width: int, height: int) -> str:
    """A picture whose pixel in column x and row y is (x, y, 99); returns its SHA-256."""
    levels = np.full((height, width, 3), 99, dtype=np.uint8)
    levels[:, :, 0] = np.arange(width)[None, :]
    levels[:, :, 1] = np.arange(height)[:, None]
    Image.fromarray(levels).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def drawn(purpose: str, sha256: str, size: str) -> int:
    """The number that a random crop's place is a remainder of."""
    text = f"crop {purpose} {size} {sha256}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
