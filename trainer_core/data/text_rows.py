"""Embeddings of captions as rows of 8 bits: each token's vector with a scale of its own.

The vectors of Llama have a few entries that are far larger than the others. Numbers of e4m3 keep
their relative error small beside these, 8-bit integers do not.
"""

from collections.abc import Mapping
from typing import Final

import torch

from trainer_core.kernels.rows8 import weight_to_8_bits

ROWS: Final = ("t5", "llama")
"""The tensors that have a vector for each token."""
_SCALE: Final = "_scale"
"""Ends the name of a tensor of scales, which has the shape of its rows without their width."""


def to_fp8(text: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a text entry, those of ``ROWS`` in e4m3 and their scales beside them."""
    tensors = dict(text)
    for name in ROWS:
        tensors[name], tensors[name + _SCALE] = weight_to_8_bits(
            text[name], dtype=torch.float8_e4m3fn
        )
    return tensors


def from_fp8(rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """rows · scales, rounded once to ``dtype``. ``scales``: [...], for rows [..., width]."""
    return (rows.float() * scales[..., None]).to(dtype)
