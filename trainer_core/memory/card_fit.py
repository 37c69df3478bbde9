"""Whether a run fits a card, which settings make it fit, and how large a batch would. No torch."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Final, Self

from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import is_8bit
from trainer_core.errors import OutOfMemoryError
from trainer_core.memory.card_plan import (
    CardNeeds,
    CardPlan,
    card_needs,
    fits,
    plan_card,
    smallest_plan,
)
from trainer_core.memory.fused_model import FusedModel
from trainer_core.memory.fused_weights import FusedWeights, fused_weights

_LARGEST_BATCH: Final = 1024
_EDGE_STEP_PX: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CardRun:
    """A run with an adapter, and a card that it may run on."""

    plan: Plan
    model: FusedModel
    weights: FusedWeights
    image_px: int
    """Area in pixels of an image of the largest bucket."""
    free_bytes: int
    """What the run may reserve on the card, its weights included."""
    picks_fp8: bool
    """Whether ``auto`` multiplies in fp8 on the card where the base is held in 8 bits."""

    @classmethod
    def of(
        cls,
        plan: Plan,
        transformer: Mapping[str, Any],
        *,
        matmul: MatmulKind,
        image_px: int,
        free_bytes: int,
        picks_fp8: bool,
    ) -> Self:
        """``transformer``: its configuration. ``matmul``: how the run multiplies with the base."""
        model = FusedModel.of(plan, transformer, matmul)
        return cls(
            plan=plan,
            model=model,
            weights=fused_weights(model),
            image_px=image_px,
            free_bytes=free_bytes,
            picks_fp8=picks_fp8,
        )

    @property
    def needs(self) -> CardNeeds:
        return card_needs(
            self.plan,
            self.model,
            self.weights,
            image_px=self.image_px,
        )

    @property
    def fits(self) -> bool:
        return fits(smallest_plan(self.needs), self.free_bytes)


def require_fit(run: CardRun) -> CardPlan:
    """How the run fits its card.

    Raises OutOfMemoryError where it does not. The message names the nearest settings that do.
    """
    planned = plan_card(run.needs, run.free_bytes)
    if planned is not None:
        return planned
    raise OutOfMemoryError(refusal_of(run))


def refusal_of(run: CardRun) -> str:
    """Why a run does not fit its card, and what would."""
    least, free = (
        f"{size / 2**30:.1f} GiB" for size in (smallest_plan(run.needs).peak_bytes, run.free_bytes)
    )
    settings = nearest_settings(run)
    advice = (
        f"it fits with {settings}" if settings else "no batch and no resolution is small enough"
    )
    return f"the run needs at least {least} of the card, of which {free} are free: {advice}"


def nearest_settings(run: CardRun) -> str | None:
    """The settings with which a run fits that does not: one if one is enough, else several.

    None: not with the smallest batch and resolution.
    """
    for change in _CHANGES:
        changed = change(run)
        if changed is not None and changed.run.fits:
            return changed.setting
    settings: list[str] = []
    for change in (*_CHANGES, _lower_resolution):
        changed = change(run)
        if changed is not None:
            settings.append(changed.setting)
            run = changed.run
            if run.fits:
                return " and ".join(settings)
    return None


def largest_batch(run: CardRun) -> int | None:
    """The largest ``train_batch_size`` that fits without offloading more than the plan's own does.

    None where the plan's own does not fit.
    """
    own = plan_card(run.needs, run.free_bytes)
    if own is None:
        return None

    def is_too_large(batch: int) -> bool:
        planned = plan_card(_with_batch(run, batch).needs, run.free_bytes)
        return planned is None or len(planned.offloaded) > len(own.offloaded)

    start = run.plan.identity.micro_batch_size
    sizes = range(start + 1, _LARGEST_BATCH + 1)
    return start + bisect_left(sizes, True, key=is_too_large)


@dataclass(frozen=True, slots=True)
class _Changed:
    """A run with one other setting."""

    setting: str
    run: CardRun


def _recompute(run: CardRun) -> _Changed | None:
    if run.plan.operation.gradient_checkpointing:
        return None
    changed = _with_operation(run, "gradient_checkpointing", True)
    return _Changed("gradient_checkpointing true", changed)


def _recompute_all(run: CardRun) -> _Changed | None:
    operation = run.plan.operation
    if not operation.gradient_checkpointing or operation.gradient_checkpointing_interval == 1:
        return None
    changed = _with_operation(run, "gradient_checkpointing_interval", 1)
    return _Changed("gradient_checkpointing_interval 1", changed)


def _hold_8_bits(run: CardRun) -> _Changed | None:
    is_auto = run.plan.identity.precision.matmul == "auto"
    if is_8bit(run.model.matmul) or not (is_auto and run.picks_fp8):
        return None
    model = replace(run.model, matmul="fp8")
    changed = replace(run, model=model, weights=fused_weights(model))
    return _Changed("base_model_precision int8-quanto", changed)


def _smaller_batch(run: CardRun) -> _Changed | None:
    """The largest that fits, or 1."""
    sizes = range(1, run.plan.identity.micro_batch_size)
    if not sizes:
        return None
    fitting = bisect_left(sizes, True, key=lambda size: not _with_batch(run, size).fits)
    size = max(1, fitting)
    return _Changed(f"train_batch_size {size}", _with_batch(run, size))


def _lower_resolution(run: CardRun) -> _Changed | None:
    """The largest that fits."""

    def at(edge_px: int) -> CardRun:
        return replace(run, image_px=edge_px**2)

    edges = range(_EDGE_STEP_PX, isqrt(run.image_px - 1) + 1, _EDGE_STEP_PX)
    fitting = bisect_left(edges, True, key=lambda edge_px: not at(edge_px).fits)
    if fitting == 0:
        return None
    edge_px = edges[fitting - 1]
    return _Changed(f"resolution {edge_px}", at(edge_px))


_CHANGES: Final[tuple[Callable[[CardRun], _Changed | None], ...]] = (
    _recompute,
    _recompute_all,
    _hold_8_bits,
    _smaller_batch,
)
"""Those first that change least: the first two change no number of the result."""


def _with_batch(run: CardRun, size: int) -> CardRun:
    identity = run.plan.identity.model_copy(update={"micro_batch_size": size})
    return replace(run, plan=run.plan.model_copy(update={"identity": identity}))


def _with_operation(run: CardRun, name: str, value: bool | int) -> CardRun:
    operation = run.plan.operation.model_copy(update={name: value})
    return replace(run, plan=run.plan.model_copy(update={"operation": operation}))
