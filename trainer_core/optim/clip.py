"""The size of the gradient, and gradient clipping. Nothing here waits for the device."""

from collections.abc import Sequence

import torch
from torch import nn

from trainer_core.config.plan import Clip


def largest_gradient(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Largest absolute element of all gradients, a scalar on their device; NaN if one is NaN."""
    return torch.nn.utils.get_total_norm(_gradients(parameters), norm_type=float("inf"))


def clip_gradients(parameters: Sequence[nn.Parameter], clip: Clip | None) -> torch.Tensor:
    """Clip in place: each element to ±limit (``value``), or the norm of all to limit (``norm``).

    Returns the Euclidean norm of all gradients before that, a scalar on their device.
    """
    if clip is not None and clip.method == "norm":
        return torch.nn.utils.clip_grad_norm_(parameters, clip.limit)
    norm = torch.nn.utils.get_total_norm(_gradients(parameters))
    if clip is not None:
        torch.nn.utils.clip_grad_value_(parameters, clip.limit)
    return norm


def _gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
