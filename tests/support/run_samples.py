"""Pictures that a run makes while it trains, with the events that a training process writes."""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.domain.ledger import ChildEvent

CLIP_DIGEST = "c" * 64


def png(colour: Sequence[int] = (200, 0, 0), size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture of one colour; without Pillow, which a scripted training process need not load."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * size[0]) * size[1]
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def sample_path(step: int, name: str = "cat", weights: str = "trained") -> str:
    end = "" if weights == "trained" else f"-{weights}"
    return f"samples/step-{step:06d}/{name}-64x48-42{end}.png"


def sample_event(
    step: int, body: bytes, name: str = "cat", weights: str = "trained", **changes: Any
) -> ChildEvent:
    """The event of a picture of 64 by 48 px; ``changes``: other facts than the true ones."""
    facts: dict[str, Any] = {
        "path": sample_path(step, name, weights),
        "name": name,
        "prompt": f"a {name}",
        "weights": weights,
        "width_px": 64,
        "height_px": 48,
        "seed": 42,
        "sampler_steps": 4,
        "guidance": 5.0,
        "sha256": hashlib.sha256(body).hexdigest(),
        "size_bytes": len(body),
        "took_s": 0.5,
        "clip_score": 0.25,
        "similarity": 0.75,
        "clip_model_digest": CLIP_DIGEST,
    }
    return ChildEvent(type="sample", step=step, data={**facts, **changes})


def preview_event(step: int, body: bytes, sampler_step: int = 1, **changes: Any) -> ChildEvent:
    """The event of a stored preview of 64 by 48 px; ``changes`` as for ``sample_event``."""
    facts: dict[str, Any] = {
        "picture": sample_path(step),
        "name": "cat",
        "weights": "trained",
        "seed": 42,
        "width_px": 64,
        "height_px": 48,
        "sampler_step": sampler_step,
        "sampler_steps": 4,
        "size_bytes": len(body),
    }
    return ChildEvent(type="preview", step=step, data={**facts, **changes})


def write_sample(output_dir: Path, event: ChildEvent, body: bytes) -> Path:
    """The file where the event says it is."""
    path = output_dir / str(event.data["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path
