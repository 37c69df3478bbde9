"""Device and number types of a run, chosen once."""

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
    """bf16 products of fp32 weights: ``bf16`` on a CPU, and where the base itself is trained."""

    def context(self) -> AbstractContextManager[object]:
        """Every forward of the transformer runs inside."""
        if self.is_autocast:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def choose_compute(
    wanted: Literal["auto", "cpu", "cuda"], precision: Precision, *, trains_base: bool = False
) -> Compute:
    """The types for the device that the plan names; ``auto`` takes cuda where there is one.

    On cuda a frozen base in bf16 is multiplied as it is. On a CPU weights stay fp32 and products
    are autocast. int8 weights are multiplied in fp32 there, because quanto's CPU kernel takes bf16
    only together with bf16 scales.

    Args:
        wanted: the plan's device.
        precision: the plan's precision.
        trains_base: the base's own weights are trained. They are then fp32 on every device, because
            a small update of a bf16 weight rounds to nothing.

    Raises:
        DeviceError: the plan asks for cuda and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise DeviceError(
            "the plan asks for cuda and this machine has no cuda device: use device auto or cpu"
        )
    device = torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")
    return compute_on(device, precision, trains_base=trains_base)


def compute_on(device: torch.device, precision: Precision, *, trains_base: bool) -> Compute:
    """As ``choose_compute``, for a device that may belong to another machine."""
    is_bf16 = precision.compute == "bf16"
    has_bf16_weights = is_bf16 and device.type == "cuda" and not trains_base
    return Compute(
        device=device,
        weights=torch.bfloat16 if has_bf16_weights else torch.float32,
        is_autocast=is_bf16 and not has_bf16_weights and precision.base == "no_change",
    )
