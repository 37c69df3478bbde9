"""Encode one shard from its spec and local files, with the given encoders."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.data.images import MaskKind, load_mask, load_rgb
from trainer_core.data.index import PictureEntry, ShardSpec, TextEntry
from trainer_core.data.shards import write_shard
from trainer_core.errors import BadImageError, ShardCorruptError


class Encoders(Protocol):
    """A base model's VAE and text encoders, loaded on first use."""

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError if a spec was made for other encoders."""

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`mean` and `std` of one image [1, 3, H, W] with values in [-1, 1]."""

    def text(self, encoder: Mapping[str, JsonValue], text: str) -> dict[str, torch.Tensor]:
        """`t5`, `llama` and `pooled` of one caption, batch first."""


class WrittenShard(NamedTuple):
    """A complete shard file."""

    size_bytes: int
    sha256: str


def encode_shard(
    models: Encoders, spec: ShardSpec, inputs: Mapping[str, Path], output: Path
) -> WrittenShard:
    """Encode every entry of the spec and write the shard to ``output``.

    Entries are encoded one at a time. This bounds memory, and a row depends on its entry only: the
    same caption gives the same bits in any shard.

    Args:
        models: the encoders.
        spec: the entries of the shard.
        inputs: SHA-256 of an image → its file; not needed for text.
        output: the file to write; replaced if it exists.

    Raises:
        BadImageError: an image cannot be decoded, or a mask is black everywhere; names it.
        BaseModelError: the spec belongs to another base model.
        ShardCorruptError: an image is missing from ``inputs``, or its content differs.
    """
    if spec.kind != "masks":  # no model is needed for masks
        models.check(spec.encoder)
    rows = [_encode_entry(models, spec, entry, inputs) for entry in spec.entries]
    tensors = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    size_bytes = write_shard(output, spec.kind, tensors)
    with output.open("rb") as file:
        return WrittenShard(size_bytes, hashlib.file_digest(file, "sha256").hexdigest())


def _encode_entry(
    models: Encoders, spec: ShardSpec, entry: PictureEntry | TextEntry, inputs: Mapping[str, Path]
) -> dict[str, torch.Tensor]:
    if isinstance(entry, TextEntry):
        return models.text(spec.encoder, entry.text)
    if entry.sha256 not in inputs:
        raise ShardCorruptError(f"{entry.path}: the image is missing from the inputs")
    image = inputs[entry.sha256]
    _check_content(image, entry)
    if spec.kind == "masks":
        return {"mask": _mask(spec, entry, image)}
    return models.latents(spec.encoder, pixels(load_rgb(image, entry.geometry, name=entry.path)))


def _mask(spec: ShardSpec, entry: PictureEntry, image: Path) -> torch.Tensor:
    """The loss weight of each latent cell, [1, 1, h, w], fp32 from 0 to 1."""
    kind: MaskKind = "segmentation" if spec.encoder["mask_kind"] == "segmentation" else "mask"
    cell_px = spec.encoder["cell_px"]
    assert isinstance(cell_px, int)  # written by our own index
    levels = load_mask(image, entry.geometry, kind, cell_px, name=entry.path)
    share = (torch.from_numpy(np.array(levels, dtype=np.float32)) / 255).clamp(0, 1)
    if not share.any():
        raise BadImageError(f"{entry.path}: the mask is black on the whole crop of its image")
    return (share.ceil() if kind == "segmentation" else share)[None, None]


def pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as [1, 3, H, W], fp32, 0..255 mapped to [-1, 1]."""
    levels = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (levels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0).contiguous()


def _check_content(path: Path, entry: PictureEntry) -> None:
    """Raise ShardCorruptError if the content differs: all runs with the image share its latents."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ShardCorruptError(f"{entry.path}: {error.strerror}") from error
    if found != entry.sha256:
        raise ShardCorruptError(
            f"{entry.path}: the content has SHA-256 {found}, not {entry.sha256}"
        )
