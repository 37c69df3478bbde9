"""Encode cache entries from images and captions, with the given encoders."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.config.plan import MaskKind
from trainer_core.data.entries import EncodedEntry, encoded
from trainer_core.data.images import load_mask, load_rgb
from trainer_core.data.index import Caption, Encoding, Picture
from trainer_core.data.mask_levels import BLACK_CROP
from trainer_core.data.shard_files import shard_header
from trainer_core.data.shards import ShardSpec
from trainer_core.data.text_rows import to_fp8
from trainer_core.errors import BadImageError, DecoderMissingError, ShardCorruptError
from trainer_core.faultpoints import fault_point
from trainer_core.whole_file import draft_of


class Encoders(Protocol):
    """A base model's VAE and text encoders, loaded on first use."""

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError if an encoding is of other encoders."""

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`mean` and `std` of one image [1, 3, H, W] with values in [-1, 1]."""

    def texts(
        self, encoder: Mapping[str, JsonValue], texts: Sequence[str]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """`t5`, `llama` and `pooled` of each caption, in the same order, batch first."""


def encode_entries(
    models: Encoders | None,
    encoding: Encoding,
    contents: Sequence[Picture | Caption],
    inputs: Mapping[str, Path],
) -> Iterator[EncodedEntry]:
    """Encode images, masks or captions; one entry of each, in the same order, as it is ready.

    Each is encoded alone. This bounds memory, and the bytes depend on the content only: the same
    caption gives the same ones beside any other.

    Args:
        models: the encoders; None where masks are encoded, which need none.
        encoding: how all are encoded.
        contents: images with their crops, or captions.
        inputs: SHA-256 of an image → its file; not needed for captions.

    Raises:
        BadImageError: the image cannot be decoded, or the mask is black everywhere; names it.
        BaseModelError: the encoding is of another base model.
        ShardCorruptError: the image is missing from ``inputs``, or its content differs.
    """
    if models is not None and encoding.kind != "masks":
        models.check(encoding.encoder)
    for tensors in _tensors(models, encoding, contents, inputs):
        yield encoded(encoding.kind, tensors)


def encode_each(
    models: Encoders | None,
    encoding: Encoding,
    contents: Sequence[Picture | Caption],
    inputs: Mapping[str, Path],
) -> Iterator[EncodedEntry | str]:
    """As ``encode_entries``; of an image that cannot be used the reason, without its name.

    Raises DecoderMissingError or MemoryError where that is this machine's fault.
    """
    if encoding.kind == "text":
        yield from encode_entries(models, encoding, contents, inputs)
        return
    for content in contents:
        try:
            yield from encode_entries(models, encoding, [content], inputs)
        except BadImageError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
            if error.fault == "no_decoder":
                raise DecoderMissingError(error.message) from error
            assert isinstance(content, Picture)
            yield error.message.removeprefix(f"{content.path}: ")


def encode_shard(
    models: Encoders | None, spec: ShardSpec, inputs: Mapping[str, Path], output: Path
) -> dict[str, str]:
    """Encode the entries of the spec and write the shard to ``output``, which is replaced.

    The file appears complete or not at all, and not where no entry can be encoded.

    Returns:
        The digests of images that cannot be used, and why; the shard lacks them.

    Arguments and other errors as of ``encode_each``; OSError.
    """
    encoding = Encoding(kind=spec.kind, encoder=spec.encoder)
    found = encode_each(models, encoding, spec.entries, inputs)
    entries: dict[str, EncodedEntry] = {}
    unusable: dict[str, str] = {}
    for digest, entry in zip(spec.digests(), found, strict=True):
        if isinstance(entry, str):
            unusable[digest] = entry
        else:
            entries[digest] = entry
    if entries:
        _write_shard(entries, output)
    return unusable


def _write_shard(entries: Mapping[str, EncodedEntry], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(output) as draft:
        fault_point("encode.before_write")
        with draft.open("wb") as file:
            tensors = {digest: entry.tensors for digest, entry in entries.items()}
            file.write(shard_header(tensors, {d: entry.sha256 for d, entry in entries.items()}))
            for entry in entries.values():
                file.writelines(entry.parts)
        fault_point("encode.before_rename")
    fault_point("encode.after_rename")


def _tensors(
    models: Encoders | None,
    encoding: Encoding,
    contents: Sequence[Picture | Caption],
    inputs: Mapping[str, Path],
) -> Iterator[dict[str, torch.Tensor]]:
    if encoding.kind == "text":
        assert models is not None
        texts = [content.text for content in contents if isinstance(content, Caption)]
        found = models.texts(encoding.encoder, texts)
        yield from map(to_fp8, found) if encoding.encoder.get("rows") == "fp8" else found
    for content in contents:
        if isinstance(content, Picture):
            yield _tensors_of(models, encoding, content, inputs)


def _tensors_of(
    models: Encoders | None, encoding: Encoding, content: Picture, inputs: Mapping[str, Path]
) -> dict[str, torch.Tensor]:
    if content.sha256 not in inputs:
        raise ShardCorruptError(f"{content.path}: the image is missing from the inputs")
    image = inputs[content.sha256]
    _check_content(image, content)
    if encoding.kind == "masks":
        return {"mask": _mask(encoding, content, image)}
    assert models is not None
    images = pixels(load_rgb(image, content.geometry, name=content.path))
    return models.latents(encoding.encoder, images)


def _mask(encoding: Encoding, content: Picture, image: Path) -> torch.Tensor:
    """The loss weight of each latent cell, [1, 1, h, w], fp32 from 0 to 1."""
    is_segmentation = encoding.encoder["mask_kind"] == "segmentation"
    kind: MaskKind = "segmentation" if is_segmentation else "mask"
    cell_px = encoding.encoder["cell_px"]
    assert isinstance(cell_px, int)  # written by our own index
    levels = load_mask(image, content.geometry, kind, cell_px, name=content.path)
    share = (torch.from_numpy(np.array(levels, dtype=np.float32)) / 255).clamp(0, 1)
    if not share.any():
        raise BadImageError(f"{content.path}: {BLACK_CROP}", "black_mask")
    return (share.ceil() if kind == "segmentation" else share)[None, None]


def pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as [1, 3, H, W], fp32, 0..255 mapped to [-1, 1]."""
    levels = torch.from_numpy(np.asarray(image, dtype=np.float32))
    return (levels / 127.5 - 1).permute(2, 0, 1).unsqueeze(0).contiguous()


def _check_content(path: Path, content: Picture) -> None:
    """Raise ShardCorruptError if the bytes differ: all runs with the image share its latents."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ShardCorruptError(f"{content.path}: {error.strerror}") from error
    if found != content.sha256:
        raise ShardCorruptError(
            f"{content.path}: the content has SHA-256 {found}, not {content.sha256}"
        )
