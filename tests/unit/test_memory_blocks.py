"""What each block keeps for the backward pass, by what of it is adapted."""

from dataclasses import replace

import pytest

from tests.unit.memory_examples import model, plan
from trainer_core.memory.card_plan import card_needs
from trainer_core.memory.fused_activations import block_bytes
from trainer_core.memory.fused_model import LIVE_TEXT_TOKENS, tokens_of
from trainer_core.memory.fused_weights import fused_weights


def test_a_block_keeps_more_where_more_of_it_is_adapted() -> None:
    tokens = tokens_of(plan(), 1024**2)
    live, rows, F = 4352, 4480, 2560

    def kept(*targets: str) -> int:
        return block_bytes(model(targets=targets), 20, tokens).kept

    block = "single_stream_blocks.4.block."
    before = "single_stream_blocks.3.block.attn1.to_q"
    none = kept(before)
    assert none == 2 * F * (4 * live + 5 * rows) + 2 * live * (2 * 13824 + 7168) + 4 * 20 * live
    assert kept(f"{block}attn1.to_k") - none == 2 * rows * (F + 8)
    assert kept(f"{block}attn1.to_k", f"{block}attn1.to_v") - none == 2 * rows * (F + 16)
    assert kept(f"{block}attn1.to_out") - none == 2 * live * 8
    assert kept(f"{block}ff_i.shared_experts.w2") - none == 2 * live * 8
    experts = tuple(f"{block}ff_i.experts.{expert}.w1" for expert in range(4))
    assert kept(*experts) - none == 2 * live * (F + 2 * 8)


def test_the_last_block_computes_no_text() -> None:
    tokens = tokens_of(plan(), 1024**2)
    last, other = (block_bytes(model(), number, tokens) for number in (47, 46))

    # A text token's residual stream, query, output and up-projections; LoKr's inner product.
    a_token = 2 * (2560 * 5 + 2 * 13824 + 7168) + 4 * 20
    assert other.kept - last.kept == 256 * a_token


def test_the_balancing_loss_counts_the_tokens_whose_outputs_are_not_used() -> None:
    tokens = tokens_of(plan(), 1024**2)
    balanced = replace(model(), has_balance=True)

    for number in (0, 16, 47):
        assert (
            block_bytes(balanced, number, tokens).kept > block_bytes(model(), number, tokens).kept
        )
    assert block_bytes(balanced, 46, tokens).kept == block_bytes(balanced, 47, tokens).kept


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("single_stream_blocks.4.block.attn1.to_q", 20),
        ("double_stream_blocks.3.block.ff_t.w1", 3),
        ("caption_projection.5.linear", 5),
        ("caption_projection.47.linear", 0),
        ("caption_projection.48.linear", 0),
        ("x_embedder.proj", 0),
        ("final_layer.linear", 48),
    ],
)
def test_blocks_before_the_first_gradient_keep_nothing(target: str, first: int) -> None:
    tokens = tokens_of(plan(), 512**2)
    kept = [block_bytes(model(targets=(target,)), i, tokens).kept for i in range(48)]

    assert [size > 0 for size in kept] == [number >= first for number in range(48)]


def test_a_twice_as_large_batch_keeps_twice_as_much() -> None:
    one, two = (
        card_needs(plan(train_batch_size=size), model(), fused_weights(model()), image_px=512**2)
        for size in (1, 2)
    )
    for number, (each, other) in enumerate(zip(one.blocks, two.blocks, strict=True)):
        # A double-stream block cuts the attention's output into image and text: copies, for two.
        tokens = 32**2 + LIVE_TEXT_TOKENS
        copies = 2 * tokens * model().width * 2 if number < 16 else 0
        assert (other.kept, other.input) == (2 * each.kept + copies, 2 * each.input)
        assert other.recompute_flops == 2 * each.recompute_flops
        assert other.passing == 2 * each.passing
        assert other.transposed == each.transposed > 0
