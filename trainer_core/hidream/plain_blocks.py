"""HiDream's blocks over diffusers' modules, with autograd: for every device, type and kind of run.

``trainer_core.hidream.fused`` computes the same faster, where the base is frozen and on cuda.
The numbers are those of diffusers 0.42.1; tests compare the two.

A block gets live tokens and a tail. The tail's tokens are attended to and then dropped, so only
their keys and values are computed. diffusers computes everything for them and throws it away.

Letters: B samples, P image tokens, T text tokens, S live tokens, R = S and the tail, F width,
A heads, D width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import (
    HiDreamAttention,
    HiDreamImageFeedForwardSwiGLU,
    MOEFeedForwardSwiGLU,
)
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer_core.hidream.attention import attend
from trainer_core.hidream.blocks import Conditions, Double, Single
from trainer_core.kernels.expert_order import expert_order
from trainer_core.kernels.expert_rows_autograd import (
    combine_rows_with_gradient,
    gather_rows_with_gradient,
)
from trainer_core.kernels.grouped_mm import grouped_mm
from trainer_core.precision.base_weights import joined_with_gradient

Experts = Callable[[nn.ModuleList, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Multiplies rows with their experts: ``_grouped_experts`` or ``_separate_experts``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainBlocks:
    """The blocks of a transformer."""

    transformer: HiDreamImageTransformer2DModel
    gradient_checkpointing_interval: int | None
    """Block i is recomputed in the backward pass if i is a multiple of it; None: no block is.
    Double-stream blocks are counted from 0, and single-stream blocks follow."""
    groups_experts: bool = False
    """Multiply the rows of all experts together, in bf16. The host then need not know how many rows
    each expert has, so a CUDA graph can capture the blocks. Experts are plain linears for that."""

    def double(
        self,
        number: int,
        image_BPF: torch.Tensor,
        text_BTF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Double:
        """A double-stream block: image and text have separate weights."""
        block = self.transformer.double_stream_blocks[number].block
        return Double(
            *self._run(number, _double, block, (image_BPF, text_BTF), tail_BTF, conditions)
        )

    def single(
        self,
        number: int,
        hidden_BSF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Single:
        """A single-stream block: image and text are one sequence. ``number`` counts all blocks."""
        index = number - len(self.transformer.double_stream_blocks)
        block = self.transformer.single_stream_blocks[index].block
        return Single(*self._run(number, _single, block, hidden_BSF, tail_BTF, conditions))

    def _run(self, number: int, forward: Any, block: Any, *tokens: Any) -> Any:
        *_, conditions = tokens
        inputs = (block, conditions.modulation(number), *tokens)
        experts = _grouped_experts if self.groups_experts else _separate_experts
        forward = partial(forward, experts=experts)
        interval = self.gradient_checkpointing_interval
        if interval is None or number % interval or not torch.is_grad_enabled():
            return forward(*inputs)
        # preserve_rng_state: dropout draws the same numbers in the recomputation.
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True)


def _double(
    block: Any,
    modulation_B12F: torch.Tensor,
    image_and_text: tuple[torch.Tensor, torch.Tensor],
    tail: torch.Tensor | None,
    conditions: Conditions,
    *,
    experts: Experts,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """diffusers' ``HiDreamImageTransformerBlock``."""
    image, text = image_and_text
    modulation = modulation_B12F[:, None].chunk(12, dim=-1)
    shift_i, scale_i, gate_i, shift_ff_i, scale_ff_i, gate_ff_i = modulation[:6]
    shift_t, scale_t, gate_t, shift_ff_t, scale_ff_t, gate_ff_t = modulation[6:]

    normed_i = _modulated(block.norm1_i, image, shift_i, scale_i)
    normed_t = _modulated(block.norm1_t, _with_tail(text, tail), shift_t, scale_t)
    attended_i, attended_t = _attend_double(
        block.attn1, normed_i, normed_t, text.shape[1], conditions
    )
    image = gate_i * attended_i + image
    text = gate_t * attended_t + text

    normed_i = _modulated(block.norm3_i, image, shift_ff_i, scale_ff_i)
    normed_t = _modulated(block.norm3_t, text, shift_ff_t, scale_ff_t)
    fed_i, loss = _feed_forward(block.ff_i, normed_i, conditions, experts)
    return gate_ff_i * fed_i + image, gate_ff_t * block.ff_t(normed_t) + text, loss


def _single(
    block: Any,
    modulation_B6F: torch.Tensor,
    hidden: torch.Tensor,
    tail: torch.Tensor | None,
    conditions: Conditions,
    *,
    experts: Experts,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """diffusers' ``HiDreamImageSingleTransformerBlock``."""
    modulation = modulation_B6F[:, None].chunk(6, dim=-1)
    shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation

    normed = _modulated(block.norm1_i, _with_tail(hidden, tail), shift, scale)
    attended = _attend_single(block.attn1, normed, hidden.shape[1], conditions)
    hidden = gate * attended + hidden

    normed = _modulated(block.norm3_i, hidden, shift_ff, scale_ff)
    fed, loss = _feed_forward(block.ff_i, normed, conditions, experts)
    return gate_ff * fed + hidden, loss


def _with_tail(live: torch.Tensor, tail: torch.Tensor | None) -> torch.Tensor:
    return live if tail is None else torch.cat([live, tail], dim=1)


def _modulated(
    norm: nn.Module, hidden: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    normed: torch.Tensor = norm(hidden).to(hidden.dtype) * (1 + scale) + shift
    return normed


def _attend_single(
    attn: HiDreamAttention, normed_BRF: torch.Tensor, live: int, conditions: Conditions
) -> torch.Tensor:
    """[B, S, F]: as ``HiDreamAttnProcessor``; the first ``live`` tokens have a query."""
    dtype = normed_BRF.dtype
    query = attn.q_rms_norm(attn.to_q(normed_BRF[:, :live])).to(dtype)
    key = attn.k_rms_norm(attn.to_k(normed_BRF)).to(dtype)
    value = attn.to_v(normed_BRF)
    attended = _attend(attn.heads, query, key, value, conditions)
    out: torch.Tensor = attn.to_out(attended)
    return out


def _attend_double(
    attn: HiDreamAttention,
    image_BPF: torch.Tensor,
    text_BRF: torch.Tensor,
    live: int,
    conditions: Conditions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image [B, P, F] and text [B, T, F]; each token attends to all tokens of both."""
    P, dtype = image_BPF.shape[1], image_BPF.dtype
    query = attn.q_rms_norm(attn.to_q(image_BPF)).to(dtype)
    key = attn.k_rms_norm(attn.to_k(image_BPF)).to(dtype)
    query_t = attn.q_rms_norm_t(attn.to_q_t(text_BRF[:, :live])).to(dtype)
    key_t = attn.k_rms_norm_t(attn.to_k_t(text_BRF)).to(dtype)
    attended = _attend(
        attn.heads,
        torch.cat([query, query_t], dim=1),
        torch.cat([key, key_t], dim=1),
        torch.cat([attn.to_v(image_BPF), attn.to_v_t(text_BRF)], dim=1),
        conditions,
    )
    return attn.to_out(attended[:, :P]), attn.to_out_t(attended[:, P:])


def _attend(
    heads: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    conditions: Conditions,
) -> torch.Tensor:
    """Scaled dot-product attention with rotary embedding, [B, S, F]. A pad's key is 0."""
    pads, scores = conditions.pads, None
    if pads is not None:
        key = key * pads.real_tokens(key.shape[1], key.dtype)
        scores = pads.scores(key.shape[1], query.dtype)
    query_BSAD, key_BRAD, value_BRAD = (
        each.view(*each.shape[:2], heads, -1) for each in (query, key, value)
    )
    attended_BSF = attend(
        _with_rope(query_BSAD, conditions.rope),
        _with_rope(key_BRAD, conditions.rope),
        value_BRAD,
        scores,
    )
    return attended_BSF.to(query.dtype)


def _with_rope(heads_BSAD: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of the first part of each head's width, in at least fp32.

    ``rope`` may have more tokens. Source: diffusers' ``apply_rope``.
    """
    width, tokens = 2 * rope.shape[-3], heads_BSAD.shape[1]
    wide = torch.promote_types(heads_BSAD.dtype, torch.float32)
    pairs = heads_BSAD[..., :width].to(wide)
    pairs = pairs.view(*pairs.shape[:-1], -1, 1, 2)
    turn = rope[:, :tokens]
    turned = (turn[..., 0] * pairs[..., 0] + turn[..., 1] * pairs[..., 1]).flatten(-2)
    turned = turned.to(heads_BSAD.dtype)
    if width == heads_BSAD.shape[-1]:
        return turned
    return torch.cat([turned, heads_BSAD[..., width:]], dim=-1)


def _feed_forward(
    layer: nn.Module, hidden_BSF: torch.Tensor, conditions: Conditions, experts: Experts
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """diffusers' ``MOEFeedForwardSwiGLU``, or a plain layer where the model has no experts."""
    if not isinstance(layer, MOEFeedForwardSwiGLU):
        return layer(hidden_BSF), None
    chosen_NK, weights_NK, loss = layer.gate(hidden_BSF, conditions.pads)
    if conditions.note_experts is not None:
        conditions.note_experts(chosen_NK)
    tokens_NF = hidden_BSF.view(-1, hidden_BSF.shape[-1])
    order = expert_order(chosen_NK, len(layer.experts))
    weight_M1 = weights_NK.reshape(-1)[order.order.long()].unsqueeze(-1)
    choices = layer.num_activated_experts
    rows_MF = gather_rows_with_gradient(tokens_NF, order, choices)
    routed_MF = experts(layer.experts, rows_MF, weight_M1, order.ends)
    routed_NF = combine_rows_with_gradient(routed_MF, order, choices)
    routed = routed_NF.view_as(hidden_BSF).to(hidden_BSF.dtype)
    return routed + layer.shared_experts(hidden_BSF), loss


def _grouped_experts(
    experts: nn.ModuleList, rows_MF: torch.Tensor, weight_M1: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """``_separate_experts`` in bf16, in two products. The experts' rows end at ``ends_E``."""

    def stacked(*names: str) -> torch.Tensor:
        weights = joined_with_gradient(
            [getattr(each, name).weight for each in experts for name in names]
        )
        return weights.view(len(experts), -1, weights.shape[-1]).bfloat16().transpose(-2, -1)

    gate, up = grouped_mm(rows_MF.bfloat16(), stacked("w1", "w3"), ends_E).chunk(2, dim=-1)
    inner = functional.silu(gate) * up
    return grouped_mm(inner * weight_M1.to(inner.dtype), stacked("w2"), ends_E)


def _separate_experts(
    experts: nn.ModuleList, rows_MF: torch.Tensor, weight_M1: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """The experts' outputs for their rows, times the rows' weights, [M, F]."""
    counts = torch.diff(ends_E, prepend=ends_E.new_zeros(1)).tolist()
    parts = zip(experts, torch.split(rows_MF, counts), torch.split(weight_M1, counts), strict=True)
    return torch.cat([_expert(*each) for each in parts])


def _expert(
    expert: HiDreamImageFeedForwardSwiGLU, rows: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The expert's output times the routing weight, which is multiplied in before w2."""
    inner = functional.silu(expert.w1(rows)) * expert.w3(rows)
    out: torch.Tensor = expert.w2(inner * weight.to(inner.dtype))
    return out
