"""The memory of a run: its parts, and how it fits each GPU class and cards of common sizes."""

from collections.abc import Sequence
from dataclasses import asdict

from services.api.runs.validation_shapes import CardMemory, CardPlan, ClassMemory, Memory, Unknown
from services.store.gpu_classes import KnownClass
from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan
from trainer_core.config.plan.matmul import Capability
from trainer_core.memory.card_plan import CardPlan as Planned
from trainer_core.memory.cards import card_rows
from trainer_core.memory.class_fit import fit_on
from trainer_core.memory.report import plan_memory

_NO_GPU = "cpu"


def memory_report(
    plan: Plan, parts: PartConfigs, classes: Sequence[KnownClass], *, image_px: int
) -> tuple[Memory, list[Unknown]]:
    """The report, and what of it is not known.

    Args:
        plan: the run.
        parts: of the base model.
        classes: of the operator.
        image_px: area in pixels of an image of the largest bucket.
    """
    unknown = [
        Unknown(
            field=f"/memory/gpu_classes/{position}/fits",
            reason=f"The operator has not said what a worker of the class {each.gpu_class} has.",
        )
        for position, each in enumerate(classes)
        if not _is_known(each)
    ]
    report = Memory(
        parts=asdict(plan_memory(plan, parts, largest_image_px=image_px)),
        gpu_classes=[_on_class(plan, parts, each, image_px) for each in classes],
        cards=[
            CardMemory(
                card_gib=row.card_gib,
                peak_estimate_bytes=None if row.planned is None else row.planned.peak_bytes,
                plan=_shown(row.planned),
                largest_batch=row.largest_batch,
                refusal=row.refusal,
            )
            for row in card_rows(plan, parts.transformer, image_px=image_px)
        ],
    )
    return report, unknown


def _is_known(each: KnownClass) -> bool:
    has_card = each.gpu_class == _NO_GPU or each.capability is not None
    return has_card and each.memory_bytes is not None


def _on_class(plan: Plan, parts: PartConfigs, each: KnownClass, image_px: int) -> ClassMemory:
    if each.memory_bytes is None or not _is_known(each):
        return ClassMemory(
            gpu_class=each.gpu_class,
            memory_bytes=each.memory_bytes,
            peak_estimate_bytes=None,
            fits=None,
            matmul=None,
            plan=None,
            largest_batch=None,
            refusal=None,
            sharding=None,
        )
    fit = fit_on(
        plan,
        parts,
        memory_bytes=each.memory_bytes,
        capability=_capability(each.capability),
        image_px=image_px,
    )
    return ClassMemory(
        gpu_class=each.gpu_class,
        memory_bytes=each.memory_bytes,
        peak_estimate_bytes=fit.peak_estimate_bytes,
        fits=fit.fits,
        matmul=fit.matmul,
        plan=_shown(fit.planned),
        largest_batch=fit.largest_batch,
        refusal=fit.refusal,
        sharding=fit.sharding,
    )


def _capability(text: str | None) -> Capability | None:
    if text is None:
        return None
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _shown(planned: Planned | None) -> CardPlan | None:
    if planned is None:
        return None
    return CardPlan(
        keeps_transposed=planned.keeps_transposed,
        streams_conditioning=planned.streams_conditioning,
        recomputed_blocks=sorted(planned.recomputed),
        offloaded_blocks=sorted(planned.offloaded),
        host_bytes=planned.host_bytes,
    )
