"""The size of the gradient, and gradient clipping. Nothing here waits for the device."""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import nn

from trainer_core.config.plan import Clip

_PIECE_ELEMENTS: Final = 1 << 16


def norm_pieces(gradients: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The same elements, in pieces of which the norm is right to fp32.

    A CPU adds squares one after another: in a sum of millions the small ones are lost.
    """
    return [
        piece
        for each in gradients
        for piece in ((each,) if each.is_cuda else torch.split(each.reshape(-1), _PIECE_ELEMENTS))
    ]


def largest_gradient(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Largest absolute element of all gradients, a scalar on their device; NaN if one is NaN."""
    return torch.nn.utils.get_total_norm(_gradients(parameters), norm_type=float("inf"))


def clip_gradients(parameters: Sequence[nn.Parameter], clip: Clip | None) -> torch.Tensor:
    """Clip in place: each element to ±limit (``value``), or the norm of all to limit (``norm``).

    Returns the Euclidean norm of all gradients before that, a scalar on their device.
    """
    norm = _norm(_gradients(parameters))
    if clip is not None and clip.method == "norm":
        torch.nn.utils.clip_grads_with_norm_(parameters, clip.limit, norm)
    elif clip is not None:
        torch.nn.utils.clip_grad_value_(parameters, clip.limit)
    return norm


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm of all, in fp32."""
    pieces = norm_pieces(gradients)
    if all(each.dtype is torch.float32 for each in pieces):
        return torch.nn.utils.get_total_norm(pieces)
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in pieces]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
