"""Device and number types of a run, chosen once."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from trainer_core.config.plan import Precision
from trainer_core.config.plan.matmul import Capability
from trainer_core.errors import GpuMissingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Device and types of one run."""

    device: torch.device
    weights: torch.dtype
    """Type of the base model's weights and of its inputs."""
    is_autocast: bool
    """fp32 weights multiplied in bf16: ``bf16`` on a CPU, and for full rank with fp32 weights."""

    def context(self) -> AbstractContextManager[object]:
        """Every forward of the transformer runs inside."""
        if self.is_autocast:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def choose_compute(
    wanted: Literal["auto", "cpu", "cuda"], precision: Precision, *, trains_base: bool = False
) -> Compute:
    """Device and types for a plan; ``auto`` means cuda if available, else cpu.

    On cuda a frozen bf16 base is multiplied in bf16. On a CPU weights are fp32 and products use
    autocast. int8 weights are multiplied in fp32 on a CPU, because quanto's CPU kernel supports
    bf16 only with bf16 scales.

    Args:
        wanted: the plan's device.
        precision: the plan's precision.
        trains_base: whether the base's own weights are trained. They are then held as
            ``precision.trained`` says, on every device.

    Raises:
        GpuMissingError: the plan's device is cuda, and the machine has none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise GpuMissingError(
            "the plan's device is cuda, and this machine has no cuda device: set device to auto or "
            "cpu"
        )
    device = torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")
    return compute_on(device, precision, trains_base=trains_base)


def capability_of(device: torch.device) -> Capability | None:
    """Compute capability of a cuda device; None for a CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def compute_on(device: torch.device, precision: Precision, *, trains_base: bool) -> Compute:
    """As ``choose_compute``, for a given device, which this machine need not have."""
    is_bf16 = precision.compute == "bf16"
    trains_bf16 = trains_base and precision.trained == "bf16"
    has_bf16_weights = is_bf16 and (trains_bf16 or (device.type == "cuda" and not trains_base))
    return Compute(
        device=device,
        weights=torch.bfloat16 if has_bf16_weights else torch.float32,
        is_autocast=is_bf16 and not has_bf16_weights and precision.base == "no_change",
    )
