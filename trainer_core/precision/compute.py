"""In which types a model is held and multiplied, decided once."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from trainer_core.config.plan import Precision
from trainer_core.errors import DeviceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Device and types of one run."""

    device: torch.device
    weights: torch.dtype
    """Of the base model as loaded, and of what goes into it."""
    is_autocast: bool
    """bf16 products of fp32 weights: what ``bf16`` means on a CPU."""

    def context(self) -> AbstractContextManager[object]:
        """Every forward of the transformer runs inside."""
        if self.is_autocast:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def choose_compute(wish: Literal["auto", "cpu", "cuda"], precision: Precision) -> Compute:
    """``auto`` is cuda where it is there; raises DeviceError where cuda was asked for and is not.

    On cuda bf16 weights are multiplied as they are. On a CPU weights stay fp32 and products are
    autocast; but not with int8 weights, which are multiplied in fp32 there, because quanto's CPU
    kernel takes bf16 only together with bf16 scales.
    """
    has_cuda = torch.cuda.is_available()
    if wish == "cuda" and not has_cuda:
        raise DeviceError("cuda was asked for and is not there")
    device = torch.device("cuda" if has_cuda and wish != "cpu" else "cpu")
    is_bf16 = precision.compute == "bf16"
    on_cuda = device.type == "cuda"
    return Compute(
        device=device,
        weights=torch.bfloat16 if is_bf16 and on_cuda else torch.float32,
        is_autocast=is_bf16 and not on_cuda and precision.base == "no_change",
    )
