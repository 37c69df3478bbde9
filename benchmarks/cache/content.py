"""What the records have in them: a few distinct texts and latents of true size, in one file.

The numbers are normal noise from a seed. Gzip finds a little in it, because exponents repeat, as it
does in real activations. Record ``n`` has text
``n % TEXTS`` and latents ``n % LATENTS``.
"""

import gzip
import hashlib
import io
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import torch

Kind = Literal["text", "latents"]
Width = Literal["bf16", "8bit"]

TEXTS: Final = 8
LATENTS: Final = 16
DISTINCT: Final[Mapping[Kind, int]] = {"text": TEXTS, "latents": LATENTS}
KINDS: Final[tuple[Kind, ...]] = ("text", "latents")

_Facts = Mapping[str, tuple[str, tuple[int, ...]]]
_TEXT: Final[Mapping[Width, _Facts]] = {
    # HiDream-I1's four encoders, 128 tokens. In the order of the names, as an entry has them.
    "bf16": {
        "llama": ("BF16", (1, 32, 128, 4096)),
        "pooled": ("BF16", (1, 2048)),
        "t5": ("BF16", (1, 128, 4096)),
    },
    "8bit": {
        "llama": ("F8_E4M3", (1, 32, 128, 4096)),
        "llama_scale": ("F32", (1, 32, 128)),
        "pooled": ("BF16", (1, 2048)),
        "t5": ("F8_E4M3", (1, 128, 4096)),
        "t5_scale": ("F32", (1, 128)),
    },
}
_LATENTS: Final[_Facts] = {
    # Of a picture of 512 x 512.
    "mean": ("F32", (1, 16, 64, 64)),
    "std": ("F32", (1, 16, 64, 64)),
}
_TYPES: Final = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
_SEED: Final = 13
_TAR_BYTES: Final = 1 << 30
"""WebDataset's documents advise about 1 GB."""
BUCKET: Final = "bench"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where some bytes are in the file, and their SHA-256."""

    offset_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """The file, and what is in it."""

    file: Path
    width: Width
    texts: tuple[Place, ...]
    latents: tuple[Place, ...]
    zipped_texts: tuple[Place, ...]
    """As SimpleTuner stores one: what torch saves, through gzip."""
    zipped_latents: tuple[Place, ...]

    def places(self, kind: Kind) -> tuple[Place, ...]:
        return self.texts if kind == "text" else self.latents

    def zipped(self, kind: Kind) -> tuple[Place, ...]:
        return self.zipped_texts if kind == "text" else self.zipped_latents

    @property
    def record_bytes(self) -> int:
        """Of the tensors of one record."""
        return self.texts[0].size_bytes + self.latents[0].size_bytes

    def tars_of(self, records: int) -> int:
        """How many tars hold so many records."""
        return -(-records // self.records_a_tar)

    @property
    def records_a_tar(self) -> int:
        return _TAR_BYTES // self.record_bytes

    @property
    def zipped_share(self) -> float:
        """What gzip leaves of the bytes of a text."""
        return self.zipped_texts[0].size_bytes / self.texts[0].size_bytes


def facts_of(kind: Kind, width: Width) -> _Facts:
    """Type and shape of each tensor, in the order of their bytes."""
    return _TEXT[width] if kind == "text" else _LATENTS


def sizes_of(kind: Kind, width: Width) -> dict[str, int]:
    """Bytes of each tensor."""
    return {
        name: math.prod(shape) * _TYPES[dtype].itemsize
        for name, (dtype, shape) in facts_of(kind, width).items()
    }


def tensors_of(
    kind: Kind, width: Width, parts: Mapping[str, bytes | bytearray]
) -> dict[str, torch.Tensor]:
    """The tensors whose bytes are ``parts``."""
    return {
        name: torch.frombuffer(parts[name], dtype=_TYPES[dtype]).reshape(shape)
        for name, (dtype, shape) in facts_of(kind, width).items()
    }


def made(folder: Path, width: Width) -> Content:
    """The content of this width; made in ``folder`` unless it is there."""
    file, notes = folder / f"content-{width}.bin", folder / f"content-{width}.json"
    if not notes.exists():
        notes.write_text(json.dumps(_write(file, width)))
    found = json.loads(notes.read_text())
    return Content(
        file=file,
        width=width,
        **{part: tuple(Place(**each) for each in places) for part, places in found.items()},
    )


def _write(file: Path, width: Width) -> dict[str, list[dict[str, int | str]]]:
    generator = torch.Generator().manual_seed(_SEED)
    parts: dict[str, list[dict[str, int | str]]] = {}
    with file.open("wb") as out, ThreadPoolExecutor() as pool:
        names: dict[Kind, str] = {"text": "texts", "latents": "latents"}
        for kind, name in names.items():
            tensors = [_noise(kind, width, generator) for _ in range(DISTINCT[kind])]
            parts[name] = [_append(out, _bytes_of(each)) for each in tensors]
            parts[f"zipped_{name}"] = [_append(out, each) for each in pool.map(_zipped, tensors)]
    return parts


def _noise(kind: Kind, width: Width, generator: torch.Generator) -> dict[str, torch.Tensor]:
    facts = facts_of(kind, "bf16")
    noise = {
        name: torch.randn(shape, generator=generator).to(_TYPES[dtype])
        for name, (dtype, shape) in facts.items()
    }
    if kind == "text" and width == "8bit":
        from trainer_core.data.text_rows import to_fp8  # noqa: PLC0415 - the peers only read

        rows = to_fp8(noise)
        return {name: rows[name] for name in facts_of(kind, width)}
    return noise


def _bytes_of(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return b"".join(each.view(torch.uint8).numpy().tobytes() for each in tensors.values())


def _zipped(tensors: Mapping[str, torch.Tensor]) -> bytes:
    saved = io.BytesIO()
    torch.save(dict(tensors), saved)
    return gzip.compress(saved.getvalue())  # level 9, the default of the module


def _append(out: io.BufferedWriter, data: bytes) -> dict[str, int | str]:
    place = Place(
        offset_bytes=out.tell(), size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    out.write(data)
    return asdict(place)


@cache
def _first_bytes(content: Content, kind: Kind) -> tuple[bytes, ...]:
    with content.file.open("rb") as file:
        found = []
        for place in content.places(kind):
            file.seek(place.offset_bytes)
            found.append(file.read(64))
    return tuple(found)


def check_record(content: Content, record: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise RuntimeError unless the tensors are those of the record, by their first bytes."""
    for kind in KINDS:
        facts = facts_of(kind, content.width)
        for name, (dtype, shape) in facts.items():
            if tensors[name].shape != shape or tensors[name].dtype != _TYPES[dtype]:
                raise RuntimeError(f"record {record}: {name} has another type or shape")
        first = tensors[next(iter(facts))].reshape(-1)[:32].view(torch.uint8)[:32]
        found, known = first.numpy().tobytes(), [each[:32] for each in _first_bytes(content, kind)]
        if found != known[record % DISTINCT[kind]]:
            whose = "another record" if found in known else "no record"
            raise RuntimeError(f"record {record} has the {kind} of {whose}")
