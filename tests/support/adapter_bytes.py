"""Adapter files of one linear layer, written byte by byte as the format has them."""

import hashlib
import json
import struct
from typing import Any, Final

from trainer_core.base_models.describe import BaseModel

PATH: Final = "x_embedder.proj"
ONE_LORA: Final[dict[str, Any]] = {
    "lora_type": "standard",
    "lora_rank": 4,
    "peft_lora_target_modules": [PATH],
    "lycoris_config": None,
}
"""Options of a run that trains such an adapter of rank 4."""


def tensors_file(shapes: dict[str, tuple[int, int]], value: float = 0.5, **metadata: Any) -> bytes:
    """A safetensors file whose fp32 tensors have this value everywhere."""
    facts: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (rows, columns) in shapes.items():
        start, end = end, end + 4 * rows * columns
        facts[name] = {
            "dtype": "F32", "shape": [rows, columns], "data_offsets": [start, end]
        }  # fmt: skip
    return packed(json.dumps(facts).encode(), struct.pack("<f", value) * (end // 4))


def packed(header: bytes, data: bytes = b"") -> bytes:
    """A file in the frame of safetensors, whatever its header says."""
    return len(header).to_bytes(8, "little") + header + data


def lora_bytes(rank: int, *, out_features: int, value: float = 0.5, **metadata: Any) -> bytes:
    """A LoRA file with diffusers' names."""
    shapes = {"lora_A": (rank, 64), "lora_B": (out_features, rank)}
    named = {f"transformer.{PATH}.{name}.weight": shape for name, shape in shapes.items()}
    return tensors_file(named, value, **metadata)


def lora_checkpoint(rank: int, *, out_features: int, full_rank: bool = False) -> dict[str, bytes]:
    """The files of a checkpoint of a run that trains it, or trains all weights, by name."""
    shapes = {"lora_A": (rank, 64), "lora_B": (out_features, rank)}
    state = tensors_file({f"param/{PATH}.{name}": shape for name, shape in shapes.items()})
    adapter = {
        "kind": "lora", "rank": rank, "alpha": 4.0, "dropout": 0.0, "init": "default",
        "modules": [PATH],
    }  # fmt: skip
    manifest = {
        "version": 1, "kind": "checkpoint", "step": 10, "cursor": 10, "identity_digest": "1" * 64,
        "identity": {"adapter": None if full_rank else adapter}, "data_digest": "2" * 64,
        "base_digest": "3" * 64,
        "scalars": {},
        "files": {
            "state.safetensors": {
                "size_bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()
            }
        },
    }  # fmt: skip
    return {"state.safetensors": state, "manifest.json": json.dumps(manifest).encode()}


def width_of(base: BaseModel) -> int:
    """The outputs of that linear."""
    config = base.transformer_config
    return int(config["num_attention_heads"]) * int(config["attention_head_dim"])
