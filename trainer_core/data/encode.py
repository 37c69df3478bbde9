"""Encode one shard from its spec and local files, with encoders that the caller passes."""

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
    """A base model's VAE and text encoders, loaded when first asked for."""

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError where a spec was made for other encoders."""

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`mean` and `std` of one picture [1, 3, H, W] with values in [-1, 1]."""

    def text(self, encoder: Mapping[str, JsonValue], text: str) -> dict[str, torch.Tensor]:
        """`t5`, `llama` and `pooled` of one caption, batch first."""


class WrittenShard(NamedTuple):
    """A shard that is stored under its final name."""

    size_bytes: int
    sha256: str


def encode_shard(
    models: Encoders, spec: ShardSpec, inputs: Mapping[str, Path], output: Path
) -> WrittenShard:
    """Encode every entry of the spec and write the shard to ``output``.

    Entries are encoded one at a time. So memory is bounded and a row depends on its entry alone:
    the same caption gives the same bits in any shard.

    Args:
        models: the encoders.
        spec: the entries of the shard.
        inputs: SHA-256 of a picture → its file; not needed for text.
        output: the file to write; replaced where it exists.

    Raises:
        BadImageError: names a picture that cannot be decoded, or a mask that leaves nothing to
            train on.
        BaseModelError: the spec belongs to another base model.
        ShardCorruptError: a picture is missing from ``inputs``, or has another content.
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
        raise ShardCorruptError(f"{entry.path}: the picture was not handed in")
    picture = inputs[entry.sha256]
    _check_content(picture, entry)
    if spec.kind == "masks":
        return {"mask": _mask(spec, entry, picture)}
    return models.latents(spec.encoder, pixels(load_rgb(picture, entry.geometry, name=entry.path)))


def _mask(spec: ShardSpec, entry: PictureEntry, picture: Path) -> torch.Tensor:
    """How much each latent cell counts, [1, 1, h, w], fp32 from 0 to 1."""
    kind: MaskKind = "segmentation" if spec.encoder["mask_kind"] == "segmentation" else "mask"
    cell_px = spec.encoder["cell_px"]
    assert isinstance(cell_px, int)  # of our own index
    levels = load_mask(picture, entry.geometry, kind, cell_px, name=entry.path)
    share = (torch.from_numpy(np.array(levels, dtype=np.float32)) / 255).clamp(0, 1)
    if not share.any():
        raise BadImageError(f"{entry.path}: the mask is black wherever its image is trained on")
    return (share.ceil() if kind == "segmentation" else share)[None, None]


def pixels(image: Image.Image) -> torch.Tensor:
    """An RGB picture as [1, 3, H, W], fp32, 0..255 mapped to [-1, 1]."""
    levels = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (levels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0).contiguous()


def _check_content(path: Path, entry: PictureEntry) -> None:
    """Raise ShardCorruptError for another content: all runs with the picture share its latents."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ShardCorruptError(f"{entry.path}: {error.strerror}") from error
    if found != entry.sha256:
        raise ShardCorruptError(f"{entry.path}: content has SHA-256 {found}, not {entry.sha256}")
