"""The blocks of a prepared transformer: fused where they can be had, else plain."""

from dataclasses import dataclass

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.matmul import has_grouped_products
from trainer_core.hidream.blocks import Blocks
from trainer_core.hidream.fused.build import fused_blocks, refusal
from trainer_core.hidream.host.weights import ALL_ON_DEVICE, HostWeights, hold_on_host
from trainer_core.hidream.plain_blocks import PlainBlocks
from trainer_core.kernels.grouped_mm import SIDE_MULTIPLE
from trainer_core.memory.card_plan import CardPlan, described, offloaded_linears
from trainer_core.memory.fused_model import FusedModel
from trainer_core.memory.fused_weights import streamed_linears
from trainer_core.precision.compute import Compute, capability_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedBlocks:
    """Blocks, and what was done to have them."""

    blocks: Blocks
    host: HostWeights = ALL_ON_DEVICE
    capture_refusal: str | None = None
    """Why a CUDA graph cannot capture them; None: it can."""
    preparation: tuple[str, ...] = ()
    """The steps that were taken, in order."""


def open_blocks(
    transformer: HiDreamImageTransformer2DModel,
    plan: Plan,
    compute: Compute,
    matmul: MatmulKind,
    card: CardPlan | None,
) -> OpenedBlocks:
    """The blocks of a transformer in train mode, with its adapter.

    Args:
        transformer: on its device, but for weights that ``card`` leaves to the host.
        plan: of the run.
        compute: device and types.
        matmul: how the frozen base is multiplied.
        card: how fused blocks fit the card; None: everything is on it, and the blocks are
            recomputed that the plan lets be recomputed.
    """
    reason = refusal(transformer, compute, matmul)
    interval = _recomputing_interval(plan)
    if reason is not None:
        if card is not None:  # plain blocks need all weights on the card
            transformer.to(compute.device)
        groups_experts = False
        if plan.identity.adapter is None:
            reason = _grouping_refusal(transformer, plan, compute)
            groups_experts = reason is None
            if groups_experts and interval is not None:
                reason = "blocks are recomputed"
        plain = PlainBlocks(
            transformer=transformer,
            gradient_checkpointing_interval=interval,
            groups_experts=groups_experts,
        )
        return OpenedBlocks(blocks=plain, capture_refusal=reason)
    total = len(transformer.double_stream_blocks) + len(transformer.single_stream_blocks)
    if card is None:
        recomputed = frozenset() if interval is None else frozenset(range(0, total, interval))
        blocks = fused_blocks(transformer, recomputed=recomputed, keeps_transposed=False)
        return OpenedBlocks(blocks=blocks)
    model = FusedModel.of(plan, dict(transformer.config), matmul)
    host = hold_on_host(
        transformer,
        streamed=streamed_linears(model) if card.streams_conditioning else (),
        offloaded=offloaded_linears(model, card),
        device=compute.device,
    )
    blocks = fused_blocks(
        transformer,
        recomputed=card.recomputed,
        keeps_transposed=card.keeps_transposed,
        host=host,
    )
    return OpenedBlocks(blocks=blocks, host=host, preparation=(described(card, total),))


def _grouping_refusal(
    transformer: HiDreamImageTransformer2DModel, plan: Plan, compute: Compute
) -> str | None:
    """Why the host has to know how many rows each expert has; None: their products are one.

    For plain blocks without an adapter.
    """
    is_fp32 = compute.weights is torch.float32 and not compute.is_autocast
    if not has_grouped_products(capability_of(compute.device)) or is_fp32:
        return "rows of experts are multiplied together only in bf16 on cards of capability 9 or 10"
    if plan.operation.zero_stage is not None:
        return "DeepSpeed shards the weights"
    layers = (each for each in transformer.modules() if isinstance(each, MOEFeedForwardSwiGLU))
    sides = (side for layer in layers for part in layer.experts.parameters() for side in part.shape)
    if any(side % SIDE_MULTIPLE for side in sides):
        return f"the experts' widths are no multiples of {SIDE_MULTIPLE}"
    return None


def _recomputing_interval(plan: Plan) -> int | None:
    operation = plan.operation
    return operation.gradient_checkpointing_interval if operation.gradient_checkpointing else None
