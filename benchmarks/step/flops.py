"""Floating-point operations of one training step of HiDream-I1, by arithmetic.

A product of [N, K] and [K, M] counts 2·N·K·M. Products of the adapter are not counted: for LoKr on
attention they are about 2 % of a step.
Letters: B samples, P image tokens, T text tokens of a block, N tokens of a block, F width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_TIME_CHANNELS: Final = 256
"""Channels of the sinusoidal time embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Operations of one forward, by what they multiply."""

    attention_projections: int
    routed_experts: int
    shared_experts: int
    text_feed_forward: int
    gates: int
    attention: int
    """Scores and weighted values of the dot-product attention."""
    head: int
    """The last layer's linear."""
    inputs: int
    """Embedders, caption projections and modulations. No trained tensor comes before them, so the
    backward pass leaves them out."""

    @property
    def forward(self) -> int:
        return self.linears + self.attention + self.inputs

    @property
    def linears(self) -> int:
        """Products with frozen weights that the backward pass repeats for the input's gradient."""
        return (
            self.attention_projections
            + self.routed_experts
            + self.shared_experts
            + self.text_feed_forward
            + self.gates
            + self.head
        )

    @property
    def step(self) -> int:
        """Forward and backward of an adapter's step, without recomputing.

        The backward pass multiplies each linear once, for the gradient of its input. Attention
        takes five products where the forward takes two.
        """
        return self.forward + self.linears + self.attention * 5 // 2

    @property
    def checkpointed_step(self) -> int:
        """As ``step``, with one more forward of every block."""
        return self.step + self.linears - self.head + self.attention


def forward_flops(
    transformer: Mapping[str, Any], *, image_tokens: int, batch: int = 1, caption_tokens: int = 128
) -> Flops:
    """Operations of diffusers' forward in train mode.

    Every token of a block goes through attention and feed-forward, with the text tokens of which
    only keys and values are used.

    Args:
        transformer: the model's ``config.json``.
        image_tokens: P, of one sample.
        batch: B.
        caption_tokens: of each of the three captions that a block gets.
    """
    F = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    doubles, singles = transformer["num_layers"], transformer["num_single_layers"]
    P, T = batch * image_tokens, batch * 3 * caption_tokens
    N = P + T
    blocks = doubles + singles
    chosen, experts = transformer["num_activated_experts"], transformer["num_routed_experts"]
    wide, narrow = _inner_width(4 * F), _inner_width(2 * F)
    mixed = doubles * P + singles * N
    """Rows that go through the experts, over all blocks."""
    patch = transformer["patch_size"] ** 2
    t5, llama = transformer["caption_channels"]
    embedders = F * (_TIME_CHANNELS + transformer["text_emb_dim"] + 2 * F)
    modulations = F * F * (12 * doubles + 6 * singles + 2)
    captions = batch * caption_tokens * F * (blocks * llama + t5)
    return Flops(
        attention_projections=2 * 4 * F * F * N * blocks,
        routed_experts=2 * 3 * F * wide * chosen * mixed,
        shared_experts=2 * 3 * F * narrow * mixed,
        text_feed_forward=2 * 3 * F * wide * T * doubles,
        gates=2 * F * experts * mixed,
        attention=4 * N * (N // batch) * F * blocks,
        head=2 * F * patch * transformer["out_channels"] * P,
        inputs=2 * (batch * (embedders + modulations) + captions)
        + 2 * P * F * patch * transformer["in_channels"],
    )


def _inner_width(hidden: int) -> int:
    """Inner width of diffusers' SwiGLU: two thirds of ``hidden``, in multiples of 256."""
    return -(-int(2 * hidden / 3) // 256) * 256
