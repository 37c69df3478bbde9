"""The size of the gradient, and gradient clipping. Nothing here waits for the device."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import nn

from trainer_core.config.plan import Clip

_PIECE_ELEMENTS: Final = 1 << 16
_NORM_EPS: Final = 1e-6
"""As torch adds it to the norm that it divides by."""


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


def clip_gradients(
    parameters: Sequence[nn.Parameter], clip: Clip | None, previous_norm: torch.Tensor
) -> torch.Tensor:
    """Clip in place, as ``Clip.method`` says.

    ``previous_norm``: that of the step before; 0: there is none. Returns the Euclidean norm of all
    gradients before that, a scalar on their device.
    """
    gradients = _gradients(parameters)
    norm = _norm(gradients)
    if clip is not None and clip.method == "norm":
        torch.nn.utils.clip_grads_with_norm_(parameters, clip.limit, norm)
    elif clip is not None:
        for each in gradients:
            _clip(each, clip, previous_norm)
    return norm


def clip_one(
    gradient: torch.Tensor, clip: Clip | None, previous_norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``clip_gradients`` for one gradient, before the others are known; not by their norm.

    Returns its largest absolute element, and its norm, in fp32.
    """
    largest = torch.linalg.vector_norm(gradient, ord=math.inf, dtype=torch.float32)
    norm = _norm([gradient])
    if clip is not None:
        assert clip.method != "norm"
        _clip(gradient, clip, previous_norm)
    return largest, norm


def _clip(gradient: torch.Tensor, clip: Clip, previous_norm: torch.Tensor) -> None:
    if clip.method == "value":
        gradient.clamp_(min=-clip.limit, max=clip.limit)
    else:
        factor = (clip.limit / (previous_norm + _NORM_EPS)).clamp_(max=1.0)
        gradient.mul_(torch.where(previous_norm > 0, factor, 1.0))


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm of all; of gradients in bf16 in fp32."""
    pieces = norm_pieces(gradients)
    if all(each.dtype is not torch.bfloat16 for each in pieces):
        return torch.nn.utils.get_total_norm(pieces)
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in pieces]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
