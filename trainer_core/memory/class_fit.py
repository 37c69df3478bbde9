"""Whether a run fits a worker of which memory and capability are known. Imports no torch."""

from dataclasses import dataclass
from typing import Final

from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import Capability, pick_matmul, picks_fp8
from trainer_core.errors import DeviceError
from trainer_core.memory.card_fit import CardRun, largest_batch, refusal_of
from trainer_core.memory.card_plan import CardPlan, plan_card
from trainer_core.memory.fused_model import is_fused_on
from trainer_core.memory.report import plan_memory
from trainer_core.memory.zero_choice import choose_zero, is_open

CUDA_BYTES: Final = 1 << 29
"""What CUDA itself takes of a card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFit:
    """A run on a worker of one class."""

    matmul: MatmulKind | None
    """How it multiplies with the base; None: it is refused."""
    peak_estimate_bytes: int | None
    fits: bool
    planned: CardPlan | None
    """What it recomputes and keeps on the host; None where the blocks are not fused."""
    largest_batch: int | None
    """Without offloading more; None where that is not known."""
    refusal: str | None
    """Why it does not fit, and which settings would."""
    sharding: str | None = None
    """The ZeRO stage that it takes, and why; None where the plan does not leave that open."""


def fit_on(
    plan: Plan,
    parts: PartConfigs,
    *,
    memory_bytes: int,
    capability: Capability | None,
    image_px: int,
) -> ClassFit:
    """How a run fits.

    Args:
        plan: the run.
        parts: configurations of the base model's parts.
        memory_bytes: of the card, or of the machine where the run trains on a CPU.
        capability: of the card; None: the run trains on a CPU.
        image_px: area in pixels of an image of the largest bucket.
    """
    try:
        matmul = pick_matmul(plan.identity.precision, capability).kind
    except DeviceError as error:
        return ClassFit(
            matmul=None,
            peak_estimate_bytes=None,
            fits=False,
            planned=None,
            largest_batch=None,
            refusal=error.message,
        )
    if is_fused_on(plan, matmul, capability):
        run = CardRun.of(
            plan,
            parts.transformer,
            matmul=matmul,
            image_px=image_px,
            free_bytes=memory_bytes - CUDA_BYTES,
            picks_fp8=picks_fp8(capability),
        )
        return _planned(run)
    device = "cpu" if capability is None else "cuda"
    operation = plan.operation.model_copy(update={"device": device})
    placed = plan.model_copy(update={"operation": operation})
    if is_open(placed):
        own_bytes = 0 if capability is None else CUDA_BYTES
        return _sharded(placed, parts, matmul, memory_bytes - own_bytes, image_px)
    peak = plan_memory(placed, parts, largest_image_px=image_px).total_bytes
    fits = peak <= memory_bytes
    refusal = f"it needs about {peak / 2**30:.1f} GiB of {memory_bytes / 2**30:.1f} GiB"
    return ClassFit(
        matmul=matmul,
        peak_estimate_bytes=peak,
        fits=fits,
        planned=None,
        largest_batch=None,
        refusal=None if fits else refusal,
    )


def _sharded(
    plan: Plan, parts: PartConfigs, matmul: MatmulKind, card_bytes: int, image_px: int
) -> ClassFit:
    choice = choose_zero(
        plan, parts.transformer, card_bytes=card_bytes, host_bytes=None, image_px=image_px
    )
    return ClassFit(
        matmul=matmul,
        peak_estimate_bytes=choice.peak_estimate_bytes,
        fits=choice.fits,
        planned=None,
        largest_batch=None,
        refusal=None if choice.fits else choice.reason,
        sharding=choice.reason,
    )


def _planned(run: CardRun) -> ClassFit:
    planned = plan_card(run.needs, run.free_bytes)
    return ClassFit(
        matmul=run.model.matmul,
        peak_estimate_bytes=None if planned is None else planned.peak_bytes,
        fits=planned is not None,
        planned=planned,
        largest_batch=largest_batch(run),
        refusal=refusal_of(run) if planned is None else None,
    )
