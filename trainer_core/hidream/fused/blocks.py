"""HiDream's blocks from fused kernels, wide products and hand-written gradients.

Letters: B samples, P image tokens, T text tokens, S live tokens, R = S and the tail, F width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from trainer_core.adapters.factors import AdapterFactors, Factors
from trainer_core.hidream.attention import attend
from trainer_core.hidream.balance import layer_balance
from trainer_core.hidream.blocks import Conditions, Double, Single
from trainer_core.hidream.fused.experts import Experts, add_experts
from trainer_core.hidream.fused.feed_forward import FeedForward, feed_forward
from trainer_core.hidream.fused.linears import Linears, product
from trainer_core.hidream.fused.recompute import recomputed
from trainer_core.hidream.host.weights import HostWeights
from trainer_core.hidream.kept_attention import KeptAttention
from trainer_core.kernels.activation import Activation
from trainer_core.kernels.add_norm import add_norm
from trainer_core.kernels.qkv_heads import Stream, qkv_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """The projections of one stream of tokens."""

    qkv: Linears
    query_norm_F: torch.Tensor
    key_norm_F: torch.Tensor
    out: Linears

    @property
    def linears(self) -> tuple[Linears, ...]:
        return self.qkv, self.out


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedBlock:
    """The parts of a block; the text parts are those of a double-stream block."""

    attention: Attention
    feed: Experts | FeedForward
    text_attention: Attention | None = None
    text_feed: FeedForward | None = None
    has_balance: bool = False

    def links(self, adapter: AdapterFactors) -> dict[str, Factors]:
        """What the gradients of the block's adapted linears go to, by path."""
        return {path: adapter.links[path] for path in self.paths} if adapter.is_on else {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of each adapted linear."""
        linears = list(self.attention.linears)
        if self.text_attention is not None:
            linears += self.text_attention.linears
        found: list[str] = []
        feeds = [] if self.text_feed is None else [self.text_feed]
        if isinstance(self.feed, Experts):
            feeds.append(self.feed.shared)
            places = (*self.feed.places_up, *self.feed.places_down)
            found += [path for place in places for path in place.paths]
        else:
            feeds.append(self.feed)
        for feed in feeds:
            linears += [feed.up, feed.down]
        return (*(path for each in linears for path in each.paths), *found)


class _Wanted(NamedTuple):
    """What a block has to compute."""

    output: bool
    """False while it is recomputed for its gradients, which do not need the output."""
    balance: bool
    """The load-balancing loss."""
    attention: KeptAttention | None
    """Of a block that is recomputed: the attention of its first forward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedBlocks:
    """The blocks of a transformer with a frozen base."""

    blocks: Sequence[FusedBlock]
    heads: int
    norm_eps: float
    """Of the norms of queries and keys."""
    recomputed: frozenset[int]
    """Numbers of the blocks that are computed again in the backward pass."""
    host: HostWeights
    """What of the blocks the host holds."""

    def double(
        self,
        number: int,
        image_BPF: torch.Tensor,
        text_BTF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Double:
        (image, text), loss = self._run(number, [image_BPF, text_BTF], tail_BTF, conditions)
        return Double(image, text, loss)

    def single(
        self,
        number: int,
        hidden_BSF: torch.Tensor,
        tail_BTF: torch.Tensor | None,
        conditions: Conditions,
    ) -> Single:
        (hidden,), loss = self._run(number, [hidden_BSF], tail_BTF, conditions)
        return Single(hidden, loss)

    def _run(
        self,
        number: int,
        hidden: Sequence[torch.Tensor],
        tail: torch.Tensor | None,
        conditions: Conditions,
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """The streams after the block, and its load-balancing loss."""
        block = self.blocks[number]
        forward: Any = self._single if block.text_attention is None else self._double
        links = block.links(conditions.adapter)
        has_loss = block.has_balance and torch.is_grad_enabled()
        is_recomputed = number in self.recomputed and torch.is_grad_enabled()
        # With pads the scores have a bias, which the kept kernel does not take.
        kept = KeptAttention() if is_recomputed and conditions.pads is None else None

        def run(
            inputs: Sequence[torch.Tensor], links_of: Sequence[torch.Tensor], keep_output: bool
        ) -> tuple[torch.Tensor, ...]:
            modulation, *tokens = inputs
            last = None if tail is None else tokens.pop()
            pairs = zip(links_of[::2], links_of[1::2], strict=True)
            own = {path: Factors(*pair) for path, pair in zip(links, pairs, strict=True)}
            inside = conditions._replace(adapter=replace(conditions.adapter, links=own))
            wanted = _Wanted(keep_output, has_loss, kept)
            found: tuple[torch.Tensor, ...] = forward(
                block, *tokens, last, modulation, inside, wanted
            )
            return found

        inputs = [conditions.modulation(number), *hidden, *([] if tail is None else [tail])]
        flat_links = [each for pair in links.values() for each in pair]
        has_gradient = any(each.requires_grad for each in (*inputs, *flat_links))
        with self.host.block(number, again=is_recomputed and has_gradient):
            outputs = (
                recomputed(run, inputs, flat_links, lambda: self.host.block_again(number))
                if is_recomputed
                else run(inputs, flat_links, True)
            )
        return (outputs[:-1], outputs[-1]) if has_loss else (outputs, None)

    def _double(
        self,
        block: FusedBlock,
        image: torch.Tensor,
        text: torch.Tensor,
        tail: torch.Tensor | None,
        modulation: torch.Tensor,
        conditions: Conditions,
        wanted: _Wanted,
    ) -> tuple[torch.Tensor, ...]:
        assert block.text_attention is not None
        assert block.text_feed is not None
        adapter = conditions.adapter
        parts = modulation.chunk(12, dim=-1)
        shift_i, scale_i, gate_i, shift_ff_i, scale_ff_i, gate_ff_i = parts[:6]
        shift_t, scale_t, gate_t, shift_ff_t, scale_ff_t, gate_ff_t = parts[6:]
        P = image.shape[1]

        dtype8 = block.attention.qkv.weight.dtype8
        # Later layers read the stream that the norm returns: its kernel adds both gradients.
        image, normed_i = add_norm(image, shift_i, scale_i, dtype8=dtype8)
        text, normed_t = add_norm(text, shift_t, scale_t, tail_BTF=tail, dtype8=dtype8)
        attended = self._attend(
            [
                _stream(block.attention, normed_i, P, adapter),
                _stream(block.text_attention, normed_t, text.shape[1], adapter),
            ],
            conditions,
            wanted.attention,
        )
        update_i = product(block.attention.out, Activation(attended[:, :P]), adapter)
        update_t = product(block.text_attention.out, Activation(attended[:, P:]), adapter)
        image, normed_i = add_norm(
            image, shift_ff_i, scale_ff_i, update_BSF=update_i, gate_BF=gate_i, dtype8=dtype8
        )
        text, normed_t = add_norm(
            text, shift_ff_t, scale_ff_t, update_BSF=update_t, gate_BF=gate_t, dtype8=dtype8
        )
        keeps_t = wanted.output or gate_ff_t.requires_grad
        fed_t = feed_forward(block.text_feed, normed_t, adapter, keep_output=keeps_t)
        fed_t = gate_ff_t[:, None] * fed_t + text
        fed_i, *loss = _fed(block, image, gate_ff_i, normed_i, conditions, wanted)
        return fed_i, fed_t, *loss

    def _single(
        self,
        block: FusedBlock,
        hidden: torch.Tensor,
        tail: torch.Tensor | None,
        modulation: torch.Tensor,
        conditions: Conditions,
        wanted: _Wanted,
    ) -> tuple[torch.Tensor, ...]:
        adapter = conditions.adapter
        shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation.chunk(6, dim=-1)
        dtype8 = block.attention.qkv.weight.dtype8
        hidden, normed = add_norm(hidden, shift, scale, tail_BTF=tail, dtype8=dtype8)
        stream = _stream(block.attention, normed, hidden.shape[1], adapter)
        attended = self._attend([stream], conditions, wanted.attention)
        update = product(block.attention.out, Activation(attended), adapter)
        hidden, normed = add_norm(
            hidden, shift_ff, scale_ff, update_BSF=update, gate_BF=gate, dtype8=dtype8
        )
        return _fed(block, hidden, gate_ff, normed, conditions, wanted)

    def _attend(
        self, streams: Sequence[Stream], conditions: Conditions, kept: KeptAttention | None
    ) -> torch.Tensor:
        """Scaled dot-product attention, [B, S, F]. A pad's key is 0."""
        rope = conditions.rope[0, :, 0]
        query, key, value = qkv_heads(
            streams, rope[..., 0, 0], rope[..., 1, 0], self.heads, self.norm_eps
        )
        if kept is not None and kept.can_attend(query, key, value):
            return kept.attend(query, key, value)
        scores, pads = None, conditions.pads
        if pads is not None:
            key = key * pads.real_tokens(key.shape[1], key.dtype).unsqueeze(-1)
            scores = pads.scores(key.shape[1], query.dtype)
        return attend(query, key, value, scores)


def _stream(attention: Attention, normed: Activation, live: int, adapter: AdapterFactors) -> Stream:
    qkv = product(attention.qkv, normed, adapter)
    return Stream(qkv, attention.query_norm_F, attention.key_norm_F, live)


def _fed(
    block: FusedBlock,
    hidden: torch.Tensor,
    gate_BF: torch.Tensor,
    normed: Activation,
    conditions: Conditions,
    wanted: _Wanted,
) -> tuple[torch.Tensor, ...]:
    """hidden + gate · feed-forward, and the load-balancing loss where the block computes it."""
    adapter = conditions.adapter
    if isinstance(block.feed, FeedForward):
        keeps = wanted.output or gate_BF.requires_grad
        fed = feed_forward(block.feed, normed, adapter, keep_output=keeps)
        return (gate_BF[:, None] * fed + hidden,)
    out, chosen_NK = add_experts(
        block.feed, hidden, gate_BF, normed, adapter, keep_output=wanted.output
    )
    if conditions.note_experts is not None:
        conditions.note_experts(chosen_NK)
    if not wanted.balance:
        return (out,)
    loss = layer_balance(normed.value, block.feed.gate_EF, chosen_NK, conditions.pads)
    return out, loss
