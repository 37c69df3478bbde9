"""Scaled dot-product attention by the fastest kernel that torch has for the inputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_PREFERENCE: Final = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""On Hopper cuDNN's kernels take half the time of torch's flash kernels, which torch prefers. torch
passes over those that are not deterministic where kernels have to be."""


def attend(
    query_BSAD: torch.Tensor,
    key_BRAD: torch.Tensor,
    value_BRAD: torch.Tensor,
    scores: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of S queries to R keys, [B, S, A · D].

    The kernel is chosen here, and not around a whole forward: a block that is recomputed in the
    backward pass has to choose the same one.

    Args:
        query_BSAD: in A heads of width D.
        key_BRAD: in the same heads.
        value_BRAD: in the same heads.
        scores: added to the scores, broadcast to [B, A, S, R]; None: nothing.
    """
    with _preference(query_BSAD.device):
        attended_BASD = functional.scaled_dot_product_attention(
            query_BSAD.transpose(1, 2),
            key_BRAD.transpose(1, 2),
            value_BRAD.transpose(1, 2),
            attn_mask=scores,
        )
    return attended_BASD.transpose(1, 2).flatten(2)


def _preference(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel(_PREFERENCE, set_priority=True)
