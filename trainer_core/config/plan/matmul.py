"""How products with the frozen base are computed, chosen by the card. Imports no torch.

``fp8`` and ``int8`` multiply rows of e4m3 numbers or of 8-bit integers on the card's 8-bit units,
forward and for the gradient of the input. ``no_change`` multiplies in the type of the computation;
8-bit weights are converted before each product. The kind changes numbers: a checkpoint stores it,
and a resume keeps it.
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

_FROM: Final[Mapping[MatmulKind, Capability]] = MappingProxyType({"fp8": (8, 9), "int8": (8, 0)})
"""The oldest cards with the products. Older ones multiply in the type of the computation."""
_GROUPED_ON: Final = (9, 10)
"""First numbers of capabilities. Source: ``_grouped_mm_cuda`` of torch 2.11 and 2.13."""
_MEASURED: Final[Mapping[MatmulKind, tuple[Capability, ...]]] = MappingProxyType(
    {"fp8": ((9, 0),), "int8": ((9, 0),)}
)
"""Cards on which the products were run and compared with bf16."""

CARDS: Final[Mapping[str, Capability | None]] = MappingProxyType(
    {
        "CPU": None,
        "cards before 8.0": (7, 5),
        "8.0 to 8.8": (8, 6),
        "8.9": (8, 9),
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
    which fp8 products were measured. On other cards they have to be asked for, and int8 everywhere.

    Args:
        precision: of the plan.
        capability: of the run's card; None: it runs on a CPU.

    Raises:
        DeviceError: the plan asks for products that the card does not have.
    """
    kind: MatmulKind = "no_change" if precision.matmul == "auto" else precision.matmul
    is_auto = precision.matmul == "auto"
    if is_auto and _gains_from_fp8(precision) and picks_fp8(capability):
        kind = "fp8"
    return _checked(kind, capability, "")


def picked_earlier(kind: MatmulKind, capability: Capability | None) -> MatmulPick:
    """How a resumed run multiplies: as its checkpoint did.

    Raises DeviceError where this card does not have such products.
    """
    return _checked(kind, capability, f"the checkpoint was trained with {kind} products: ")


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


def is_8bit(kind: MatmulKind) -> bool:
    """Whether products of this kind multiply rows in 8 bits, and the base is held so."""
    return kind != "no_change"


def needs_of(kind: MatmulKind) -> str:
    """Which cards have 8-bit products of this kind, as a sentence."""
    return "{} products need a CUDA card of capability {}.{} or newer".format(kind, *_FROM[kind])


def measured_on(kind: MatmulKind) -> str:
    """Where 8-bit products of this kind were measured, such as ``on cards of capability 9.0``."""
    cards = ", ".join("{}.{}".format(*capability) for capability in _MEASURED[kind])
    return f"on cards of capability {cards} only"


def picks_fp8(capability: Capability | None) -> bool:
    """Whether ``auto`` multiplies a base that is held in 8 bits in fp8 on a card; None: no card."""
    return capability in _MEASURED["fp8"]


def _has_products(kind: MatmulKind, capability: Capability | None) -> bool:
    return kind == "no_change" or (capability is not None and capability >= _FROM[kind])


def has_grouped_products(capability: Capability | None) -> bool:
    """Whether torch's grouped products run on a card without asking the host.

    A CUDA graph can capture only such.
    """
    return capability is not None and capability[0] in _GROUPED_ON


def has_fused_blocks(capability: Capability | None, kind: MatmulKind) -> bool:
    """Whether a card can compute HiDream's fused blocks with products of this kind.

    Cards of 8.0 to 8.9 can with those 8-bit products that they have: a kernel that needs nothing
    newer multiplies the experts. Others lack grouped products, or shared memory for their kernels.
    """
    is_ampere_or_ada = capability is not None and capability[0] == 8
    has_8bit = is_8bit(kind) and _has_products(kind, capability)
    return has_grouped_products(capability) or (is_ampere_or_ada and has_8bit)


def _checked(kind: MatmulKind, capability: Capability | None, because: str) -> MatmulPick:
    """The pick; DeviceError, with ``because`` before its reason, where the card lacks it."""
    place = "a CPU" if capability is None else "a card of capability {}.{}".format(*capability)
    if kind == "no_change":
        return MatmulPick(kind=kind, reason=f"multiplies without 8-bit products on {place}")
    if not _has_products(kind, capability):
        raise DeviceError(f"{because}{needs_of(kind)}, and this run is on {place}")
    unmeasured = "" if capability in _MEASURED[kind] else ", where this was never measured"
    return MatmulPick(kind=kind, reason=f"multiplies in {kind} on {place}{unmeasured}")
