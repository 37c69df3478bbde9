"""The largest gradient element, and gradient clipping. Neither waits for the device."""

from collections.abc import Sequence

import torch
from torch import nn

from trainer_core.config.plan import Clip


def largest_gradient(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Largest absolute element of all gradients, a scalar on their device; NaN if one is NaN."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))


def clip_gradients(parameters: Sequence[nn.Parameter], clip: Clip | None) -> None:
    """Clip in place: each element to ±limit (``value``), or the norm of all to limit (``norm``)."""
    if clip is None:
        return
    if clip.method == "value":
        torch.nn.utils.clip_grad_value_(parameters, clip.limit)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, clip.limit)
