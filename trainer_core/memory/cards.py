"""How a run would fit cards of common sizes. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import CARDS, Capability, pick_matmul
from trainer_core.errors import DeviceError
from trainer_core.memory.card_fit import CardRun, largest_batch, refusal_of
from trainer_core.memory.card_plan import CardPlan, plan_card
from trainer_core.memory.fused_model import is_fused, is_fused_on

SIZES_GIB: Final = (80, 48, 24, 16, 12)
_OLDEST_OF: Final[Mapping[str, Capability]] = MappingProxyType(
    {"8": (8, 0), "8.9": (8, 9), "9": (9, 0), "10": (10, 0)}
)
"""The oldest card of each class, by its capability in words. 8 contains 8.9."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardRow:
    """A run on a card of one size."""

    card_gib: int
    planned: CardPlan | None
    """None where the run does not fit."""
    largest_batch: int | None
    """The largest ``train_batch_size`` that fits without offloading more; None as above."""
    refusal: str | None
    """Why the run does not fit, and which settings would."""


def card_rows(plan: Plan, transformer: Mapping[str, Any], *, image_px: int) -> tuple[CardRow, ...]:
    """A row for each of ``SIZES_GIB``; none where the blocks are not fused.

    Args:
        plan: the run.
        transformer: configuration of the base model's transformer.
        image_px: area in pixels of an image of the largest bucket.
    """
    matmul = assumed_matmul(plan)
    if plan.operation.device == "cpu" or not is_fused(plan, matmul):
        return ()
    run = CardRun.of(
        plan, transformer, matmul=matmul, image_px=image_px, free_bytes=0, picks_fp8=True
    )
    return tuple(_row(run, size_gib) for size_gib in SIZES_GIB)


def assumed_matmul(plan: Plan) -> MatmulKind:
    """What the run would pick on a card that has all kinds of products."""
    return pick_matmul(plan.identity.precision, CARDS["9.0"]).kind


def fused_on(plan: Plan) -> tuple[str, ...]:
    """Capabilities of the cards on which a new run's blocks are fused, such as ("8.9", "9", "10").

    What ``card_rows`` shows holds for these.
    """
    names = [name for name, oldest in _OLDEST_OF.items() if _is_new_run_fused(plan, oldest)]
    return tuple(name for name in names if name != "8.9" or "8" not in names)


def _is_new_run_fused(plan: Plan, capability: Capability) -> bool:
    try:
        kind = pick_matmul(plan.identity.precision, capability).kind
    except DeviceError:
        return False
    return is_fused_on(plan, kind, capability)


def _row(run: CardRun, size_gib: int) -> CardRow:
    run = replace(run, free_bytes=usable_bytes(size_gib))
    planned = plan_card(run.needs, run.free_bytes)
    return CardRow(
        card_gib=size_gib,
        planned=planned,
        largest_batch=largest_batch(run),
        refusal=refusal_of(run) if planned is None else None,
    )


def usable_bytes(size_gib: int) -> int:
    """A card has up to 3 % less than its name says, and CUDA itself takes half a GiB."""
    return round((0.97 * size_gib - 0.5) * 2**30)
