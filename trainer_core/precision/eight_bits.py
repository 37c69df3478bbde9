"""Rounds published weights to 8 bits while they are read."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from trainer_core.kernels.rows8 import weight_to_8_bits
from trainer_core.precision.base_weights import Target, source_targets
from trainer_core.precision.linear8 import Linear8

ROUNDING_VERSION: Final = 2
"""Raised when the rounding changes, so that weights kept by an earlier version are not used."""


def rounding_targets(model: nn.Module) -> dict[str, Target]:
    """Targets for published weights: each ``Linear8`` of the model rounds its own.

    The result equals that of ``hold_in_8bit``, and no more than a few weights are whole at a time.
    """
    targets = source_targets(model)
    # Triton compiles a kernel at its first call; two threads need not do so.
    one_at_a_time = threading.Lock()
    for path, module in model.named_modules():
        if isinstance(module, Linear8):
            rows8 = targets.pop(f"{path}.rows8")
            del targets[f"{path}.scale"]
            put = _rounding(module, one_at_a_time)
            targets[f"{path}.weight"] = replace(rows8, put=put, place=None)
    return targets


def _rounding(linear: Linear8, one_at_a_time: threading.Lock) -> Callable[[torch.Tensor], None]:
    def put(weight: torch.Tensor) -> None:
        with one_at_a_time:
            rows8, scale = weight_to_8_bits(weight, dtype=linear.rows8.dtype)
            linear.rows8.copy_(rows8)
            linear.scale.copy_(scale)

    return put
