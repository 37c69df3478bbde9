"""Which ZeRO stage a full-rank run takes on cards of a size, where its plan leaves that open.

The lowest that fits is taken, because it exchanges least: stage 2, then 3, then both with fp32
weights and optimizer state on the CPU. Stage 1 is as fast as stage 2, and needs more. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan, ZeroOffload
from trainer_core.memory.report import Memory, plan_memory

_LADDER: Final[tuple[tuple[int, ZeroOffload], ...]] = (
    (2, "none"),
    (3, "none"),
    (2, "cpu"),
    (3, "cpu"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroChoice:
    """How a run is sharded."""

    stage: int
    offload: ZeroOffload
    fits: bool
    """False: nothing fits, and this needs least of a card."""
    peak_estimate_bytes: int
    """Of each card."""
    reason: str
    """In one sentence, for people."""

    def applied(self, plan: Plan) -> Plan:
        """The plan with stage and offloading."""
        return _placed(plan, self.stage, self.offload)


def is_open(plan: Plan) -> bool:
    """Whether the plan leaves stage or offloading to the cards that it runs on."""
    return "auto" in (plan.operation.zero_stage, plan.operation.zero_offload)


def choose_zero(
    plan: Plan,
    transformer: Mapping[str, Any],
    *,
    card_bytes: int,
    host_bytes: int | None,
    image_px: int,
) -> ZeroChoice:
    """The stage of a run that leaves it open.

    Args:
        plan: the run.
        transformer: configuration of the base model's transformer.
        card_bytes: what the run may use of each card.
        host_bytes: what each rank may use of its host; None: not known, and taken for enough.
        image_px: area in pixels of an image of the largest bucket.
    """
    parts = PartConfigs(transformer=transformer, text_encoders=(None,) * 4, vae=None)
    tried: list[tuple[int, ZeroOffload, Memory]] = []
    for stage, offload in _rungs(plan):
        placed = _placed(plan, stage, offload)
        memory = plan_memory(placed, parts, largest_image_px=image_px)
        tried.append((stage, offload, memory))
        has_host = host_bytes is None or memory.host_bytes <= host_bytes
        if memory.total_bytes <= card_bytes and has_host:
            return _choice(tried, len(tried) - 1, card_bytes, fits=True)
    least = min(range(len(tried)), key=lambda number: tried[number][2].total_bytes)
    return _choice(tried, least, card_bytes, fits=False)


def _rungs(plan: Plan) -> list[tuple[int, ZeroOffload]]:
    """What the plan allows, in the order of preference."""
    stage, offload = plan.operation.zero_stage, plan.operation.zero_offload
    if stage is not None and stage != "auto":
        return [(stage, "none"), (stage, "cpu")]
    # A single rank holds everything under every stage.
    stages = (2,) if plan.identity.world_size == 1 else (2, 3)
    return [each for each in _LADDER if each[0] in stages and offload in ("auto", each[1])]


def _placed(plan: Plan, stage: int, offload: ZeroOffload) -> Plan:
    update = {"zero_stage": stage, "zero_offload": offload}
    return plan.model_copy(update={"operation": plan.operation.model_copy(update=update)})


def _choice(
    tried: list[tuple[int, ZeroOffload, Memory]], number: int, card_bytes: int, *, fits: bool
) -> ZeroChoice:
    stage, offload, memory = tried[number]
    needs = f"{_name(stage, offload)} needs about {_gib(memory.total_bytes)}"
    reason = f"{needs} of the {_gib(card_bytes)} of each card"
    if offload == "cpu":
        reason += f" and {_gib(memory.host_bytes)} of the host for each"
    others = [
        f"{_name(other, place)} would need {_gib(of.total_bytes)}"
        + (f" and {_gib(of.host_bytes)} of the host" if place == "cpu" else "")
        for other, place, of in tried
        if of is not memory
    ]
    if others:
        reason += f"; {', '.join(others)}"
    if not fits:
        reason = f"by the estimate nothing fits: {reason}"
    return ZeroChoice(
        stage=stage,
        offload=offload,
        fits=fits,
        peak_estimate_bytes=memory.total_bytes,
        reason=reason,
    )


def _name(stage: int, offload: ZeroOffload) -> str:
    return f"ZeRO stage {stage}" + (" with offloading" if offload == "cpu" else "")


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
