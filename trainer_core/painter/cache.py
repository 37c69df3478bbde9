"""Encodes a run's pictures and captions in batches, before the run would encode them one by one.

A batch of a small model pays a call's fixed cost once. The entries lie where the run looks for
them. Their last bits can differ from those of entries that are encoded alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import torch
from diffusers import AutoencoderKL

from trainer_core.data.encode import pixels
from trainer_core.data.entries import encoded
from trainer_core.data.entry_files import entry_name, write_entry_file
from trainer_core.data.images import load_rgb
from trainer_core.data.index import Caption, DataIndex, Entry, EntryKind, Picture
from trainer_core.data.text_rows import to_fp8
from trainer_core.hidream.loading import TextEncoders, load_text_encoders, load_vae
from trainer_core.hidream.text import encode_texts
from trainer_core.hidream.vae import encode_images

_BATCH: Final = 128
_THREADS: Final = 8
"""That decode pictures."""
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_T = TypeVar("_T")


def encode_in_batches(
    folder: Path,
    index: DataIndex,
    base: Path,
    images: Mapping[str, Path],
    device: torch.device,
) -> int:
    """Write every entry of an index that is not in ``folder`` yet; returns their number.

    Args:
        folder: of the cache.
        index: the run's data, without masks, all of one base model and type.
        base: the base model's folder.
        images: SHA-256 → a file with that content.
        device: of the encoders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = [each for each in index.entries if not (folder / entry_name(each.digest)).exists()]
    pictures = [each for each in left if isinstance(each.content, Picture)]
    captions = [each for each in left if isinstance(each.content, Caption)]
    if pictures:
        vae = load_vae(base, _dtype(index, pictures[0])).to(device)
        _encode_pictures(folder, pictures, vae, images)
    if captions:
        encoders = load_text_encoders(base, _dtype(index, captions[0]), device=device)
        _encode_captions(folder, index, captions, encoders)
    return len(left)


def _encode_pictures(
    folder: Path, entries: Sequence[Entry], vae: AutoencoderKL, images: Mapping[str, Path]
) -> None:
    by_size: dict[tuple[int, int], list[tuple[Entry, Picture]]] = {}
    for entry in entries:
        content = entry.content
        assert isinstance(content, Picture)
        size = content.geometry.width_px, content.geometry.height_px
        by_size.setdefault(size, []).append((entry, content))

    def load(each: tuple[Entry, Picture]) -> torch.Tensor:
        _, picture = each
        return pixels(load_rgb(images[picture.sha256], picture.geometry, name=picture.path))

    with ThreadPoolExecutor(_THREADS) as pool:
        for group in by_size.values():
            for batch in _batches(group):
                mean, std = encode_images(vae, torch.cat(list(pool.map(load, batch))))
                for row, (entry, _) in enumerate(batch):
                    one = slice(row, row + 1)
                    _write(folder, entry, "latents", {"mean": mean[one], "std": std[one]})


def _encode_captions(
    folder: Path, index: DataIndex, entries: Sequence[Entry], encoders: TextEncoders
) -> None:
    dtype = _dtype(index, entries[0])
    for batch in _batches(entries):
        texts = [entry.content.text for entry in batch if isinstance(entry.content, Caption)]
        found = encode_texts(encoders, texts).to(device=torch.device("cpu"), dtype=dtype)
        for row, entry in enumerate(batch):
            tensors = found.row(row).tensors()
            in_8_bits = index.encodings[entry.encoding].encoder.get("rows") == "fp8"
            _write(folder, entry, "text", to_fp8(tensors) if in_8_bits else tensors)


def _write(
    folder: Path, entry: Entry, kind: EntryKind, tensors: Mapping[str, torch.Tensor]
) -> None:
    made = encoded(kind, tensors)
    path = folder / entry_name(entry.digest)
    write_entry_file(path, made.tensors, made.sha256, made.parts, durable=False)


def _dtype(index: DataIndex, entry: Entry) -> torch.dtype:
    return _DTYPES[str(index.encodings[entry.encoding].encoder["compute"])]


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
