"""Floating-point operations of one training step of HiDream-I1, by arithmetic.

A product of [N, K] and [K, M] counts 2·N·K·M. Products of the adapter are not counted: for LoKr on
attention they are about 2 % of a step.
Letters: B samples, P image tokens, T text tokens of a block, N = P + T, F width.
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
    transformer: Mapping[str, Any],
    *,
    image_tokens: int,
    batch: int = 1,
    caption_tokens: int = 128,
    without_unused: bool = False,
) -> Flops:
    """Operations of a forward in train mode.

    diffusers sends every token of a block through all of it. Of a block's own caption only keys and
    values are used, and of the last block only the image tokens' outputs.

    Args:
        transformer: the model's ``config.json``.
        image_tokens: P, of one sample.
        batch: B.
        caption_tokens: of each of the three captions that a block gets.
        without_unused: leave out the work whose results are not used.
    """
    F = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    doubles, singles = transformer["num_layers"], transformer["num_single_layers"]
    blocks = doubles + singles
    P, T = image_tokens, 3 * caption_tokens
    N = P + T
    kept_T = T - caption_tokens if without_unused else T
    # Rows of queries, outputs and feed-forwards, over all single-stream blocks.
    kept_single = singles * (P + kept_T) - (kept_T if without_unused else 0)
    kept = doubles * (P + kept_T) + kept_single
    mixed = doubles * P + kept_single  # rows that go through experts
    chosen, experts = transformer["num_activated_experts"], transformer["num_routed_experts"]
    wide, narrow = _inner_width(4 * F), _inner_width(2 * F)
    patch = transformer["patch_size"] ** 2
    t5, llama = transformer["caption_channels"]
    embedders = F * (_TIME_CHANNELS + transformer["text_emb_dim"] + 2 * F)
    modulations = F * F * (12 * doubles + 6 * singles + 2)
    captions = caption_tokens * F * (blocks * llama + t5)
    pixels = P * F * patch * transformer["in_channels"]
    return Flops(
        attention_projections=batch * 2 * F * F * (2 * kept + 2 * N * blocks),
        routed_experts=batch * 2 * 3 * F * wide * chosen * mixed,
        shared_experts=batch * 2 * 3 * F * narrow * mixed,
        text_feed_forward=batch * 2 * 3 * F * wide * kept_T * doubles,
        gates=batch * 2 * F * experts * mixed,
        attention=batch * 4 * N * kept * F,
        head=batch * 2 * F * patch * transformer["out_channels"] * P,
        inputs=batch * 2 * (embedders + modulations + captions + pixels),
    )


def _inner_width(hidden: int) -> int:
    """Inner width of diffusers' SwiGLU: two thirds of ``hidden``, in multiples of 256."""
    return -(-int(2 * hidden / 3) // 256) * 256
