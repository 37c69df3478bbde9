"""Compares two checkpoints bit for bit."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainer_core.checkpoint.layout import STATE_NAME


def differences(one: Path, other: Path) -> dict[str, Any]:
    """How many tensors of two checkpoint folders there are, and how many of them differ.

    ``largest_relative``: largest |a - b| over the largest |a|, of the tensors that differ.
    """
    a, b = (load_file(folder / STATE_NAME) for folder in (one, other))
    if a.keys() != b.keys():
        raise ValueError(f"the checkpoints hold different tensors: {sorted(a.keys() ^ b.keys())}")
    different = [name for name, value in a.items() if not _same_bits(value, b[name])]
    relative = [_relative(a[name], b[name]) for name in different]
    return {
        "tensors": len(a),
        "different": len(different),
        "first_different": different[0] if different else None,
        "largest_relative": max(relative, default=0.0),
    }


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = (each.contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / a.abs().max())
