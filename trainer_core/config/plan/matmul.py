"""How products with the frozen base are computed, chosen by the card. Imports no torch.

``fp8`` multiplies rows of e4m3 numbers on the card's 8-bit units, forward and for the gradient of
the input. ``no_change`` multiplies in the type of the computation; 8-bit weights are converted
before each product. The kind changes numbers: a checkpoint stores it, and a resume keeps it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trainer_core.config.plan.identity import MatmulKind, Precision
from trainer_core.config.plan.operation import Device
from trainer_core.errors import DeviceError

Capability = tuple[int, int]
"""Compute capability of a CUDA card, such as (9, 0) of an H100."""

FP8_NEEDS: Final = "fp8 products need a CUDA card of capability 9.0 or newer"
_FP8_FROM: Final[Capability] = (9, 0)
_FUSED_ON: Final = (9, 10)
"""First numbers of capabilities. Source: ``_grouped_mm_cuda`` of torch 2.11 and 2.13."""
_MEASURED: Final[tuple[Capability, ...]] = ((9, 0),)
"""Cards on which the fp8 products were run and compared with bf16."""

CARDS: Final[Mapping[str, Capability | None]] = MappingProxyType(
    {
        "CPU": None,
        "cards before 9.0": (8, 9),
        "9.0": (9, 0),
        "cards after 9.0": (10, 0),
    }
)
"""One example of each class of card. None: no card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatmulPick:
    """What was picked for a run, and why."""

    kind: MatmulKind
    reason: str
    """Such as ``multiplies in fp8 on a card of capability 9.0``."""


def pick_matmul(precision: Precision, capability: Capability | None) -> MatmulPick:
    """How a new run multiplies.

    ``auto`` is fp8 where the base is held in 8 bits, the computation is bf16 and the card is one on
    which fp8 products were measured. On newer cards they have to be asked for.

    Args:
        precision: of the plan.
        capability: of the run's card; None: it runs on a CPU.

    Raises:
        DeviceError: the plan asks for products that the card does not have.
    """
    kind: MatmulKind = "no_change" if precision.matmul == "auto" else precision.matmul
    is_auto = precision.matmul == "auto"
    if is_auto and _gains_from_fp8(precision) and capability in _MEASURED:
        kind = "fp8"
    return _checked(kind, capability, "")


def picked_earlier(kind: MatmulKind, capability: Capability | None) -> MatmulPick:
    """How a resumed run multiplies: as its checkpoint did.

    Raises DeviceError where this card does not have such products.
    """
    return _checked(kind, capability, "the checkpoint was trained with fp8 products: ")


def picks_by_card(precision: Precision, device: Device) -> dict[str, MatmulKind | None]:
    """What a new run would pick on each class of ``CARDS`` that the plan's device may be.

    None: it is refused there.
    """
    picks: dict[str, MatmulKind | None] = {}
    for name, capability in CARDS.items():
        if device != "auto" and (device == "cpu") != (capability is None):
            continue
        try:
            picks[name] = pick_matmul(precision, capability).kind
        except DeviceError:
            picks[name] = None
    return picks


def _gains_from_fp8(precision: Precision) -> bool:
    return precision.base == "int8-quanto" and precision.compute == "bf16"


def has_fp8(capability: Capability | None) -> bool:
    """Whether a card has fp8 products; None: no card."""
    return capability is not None and capability >= _FP8_FROM


def has_fused_blocks(capability: Capability | None) -> bool:
    """Whether a card can compute HiDream's fused blocks.

    On others torch's grouped products ask the host, which no CUDA graph can capture, and most have
    less shared memory than the kernels of the experts need.
    """
    return capability is not None and capability[0] in _FUSED_ON


def _checked(kind: MatmulKind, capability: Capability | None, because: str) -> MatmulPick:
    """The pick; DeviceError, with ``because`` before its reason, where the card lacks it."""
    place = "a CPU" if capability is None else "a card of capability {}.{}".format(*capability)
    if kind == "no_change":
        return MatmulPick(kind=kind, reason=f"multiplies without 8-bit products on {place}")
    if not has_fp8(capability):
        raise DeviceError(f"{because}{FP8_NEEDS}, and this run is on {place}")
    unmeasured = "" if capability in _MEASURED else ", where this was never measured"
    return MatmulPick(kind=kind, reason=f"multiplies in fp8 on {place}{unmeasured}")
