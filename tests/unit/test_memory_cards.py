"""What a run recomputes, streams and offloads to fit a card, and what would make it fit."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TRUE_CONFIG
from tests.unit.memory_examples import GIB, model, plan, run_of
from trainer_core.config.plan import MatmulKind
from trainer_core.config.plan.matmul import Capability
from trainer_core.errors import OutOfMemoryError
from trainer_core.memory.card_fit import (
    CardRun,
    largest_batch,
    nearest_settings,
    require_fit,
)
from trainer_core.memory.card_plan import (
    CardPlan,
    described,
    fits,
    host_linears,
    plan_card,
    smallest_plan,
)
from trainer_core.memory.cards import SIZES_GIB, card_rows
from trainer_core.memory.fused_model import is_fused_on
from trainer_core.memory.fused_weights import base_bytes, fused_weights
from trainer_core.memory.peak import activations_at_peak
from trainer_core.memory.weights import base_weight_bytes

RUNS = st.builds(
    run_of,
    st.floats(2, 160),
    edge_px=st.sampled_from([256, 512, 768, 1024]),
    base=st.sampled_from(["int8-quanto", "no_change"]),
    train_batch_size=st.integers(1, 40),
    gradient_checkpointing=st.booleans(),
    gradient_checkpointing_interval=st.integers(1, 5),
)


@settings(max_examples=25, deadline=None)
@given(RUNS)
def test_a_plan_is_never_above_its_card_and_never_does_more_than_it_needs(run: CardRun) -> None:
    planned = plan_card(run.needs, run.free_bytes)

    if planned is None:
        assert smallest_plan(run.needs).peak_bytes > run.free_bytes
        return
    assert planned.peak_bytes <= run.free_bytes
    operation = run.plan.operation
    assert all(
        number % operation.gradient_checkpointing_interval == 0 for number in planned.recomputed
    )
    assert not planned.recomputed or operation.gradient_checkpointing
    assert planned.offloaded <= planned.recomputed
    # The card just large enough for it gives the same plan, and a smaller one another.
    assert plan_card(run.needs, planned.peak_bytes) == planned
    assert plan_card(run.needs, planned.peak_bytes - 1) != planned
    one_less = [
        run.needs.planned(
            planned.recomputed - {number}, planned.offloaded, streams=planned.streams_conditioning
        )
        for number in planned.recomputed - planned.offloaded
    ]
    assert not one_less or not all(fits(each, run.free_bytes) for each in one_less)


def costs(planned: CardPlan) -> tuple[int, int, bool, bool]:
    """The most expensive first."""
    return (
        len(planned.offloaded),
        len(planned.recomputed),
        planned.streams_conditioning,
        not planned.keeps_transposed,
    )


@settings(max_examples=25, deadline=None)
@given(RUNS, st.floats(1, 3))
def test_a_larger_card_does_no_more(run: CardRun, times: float) -> None:
    small = plan_card(run.needs, run.free_bytes)
    large = plan_card(run.needs, round(run.free_bytes * times))

    if small is not None:
        assert large is not None
        assert costs(large) <= costs(small)


@settings(max_examples=25, deadline=None)
@given(RUNS)
def test_a_refusal_names_settings_with_which_the_run_fits(run: CardRun) -> None:
    if run.fits:
        require_fit(run)
        return
    with pytest.raises(OutOfMemoryError) as caught:
        require_fit(run)
    named = nearest_settings(run)
    if named is None:
        assert "no batch and no resolution is small enough" in caught.value.message
        return
    assert caught.value.message.endswith(f"it fits with {named}")

    options = dict(setting.split() for setting in named.split(" and "))
    edge_px = int(options.pop("resolution", round(run.image_px**0.5)))
    operation, identity = run.plan.operation, run.plan.identity
    same = {
        "base": identity.precision.base,
        "train_batch_size": identity.micro_batch_size,
        "gradient_checkpointing": operation.gradient_checkpointing,
        "gradient_checkpointing_interval": operation.gradient_checkpointing_interval,
    }
    if "base_model_precision" in options:
        same["base"] = options.pop("base_model_precision")
    require_fit(run_of(run.free_bytes / GIB, edge_px=edge_px, **{**same, **options}))


def test_what_costs_least_time_is_done_first() -> None:
    needs = run_of(1).needs
    both_ways, whole = needs.planned(keeps_transposed=True), needs.planned()

    assert plan_card(needs, both_ways.peak_bytes) == both_ways
    assert plan_card(needs, both_ways.peak_bytes - 1) == whole
    assert both_ways.peak_bytes > whole.peak_bytes
    assert plan_card(needs, whole.peak_bytes) == whole
    streamed = plan_card(needs, whole.peak_bytes - 1)
    assert streamed == needs.planned(streams=True)
    some = plan_card(needs, streamed.peak_bytes - 1)
    assert some is not None
    assert (some.streams_conditioning, len(some.recomputed), some.offloaded) == (
        True,
        1,
        frozenset(),
    )
    every = needs.planned(needs.recomputable, streams=True)
    assert plan_card(needs, every.peak_bytes) == every
    away = plan_card(needs, every.peak_bytes - 1)
    assert away is not None
    assert len(away.recomputed) == 47  # not the last block, whose gradient is computed first
    assert len(away.offloaded) == 3  # two blocks stand in the ring
    assert away.host_bytes == needs.weights.conditioning + sum(
        needs.weights.blocks[number] for number in away.offloaded
    )


def test_a_batch_is_proposed_that_fits_and_the_next_larger_does_not() -> None:
    for free_gib in (14, 22, 45, 77):
        run = run_of(free_gib)
        batch = largest_batch(run)
        assert batch is not None
        own = plan_card(run.needs, run.free_bytes)
        assert own is not None
        for size, is_larger in ((batch, False), (batch + 1, True)):
            planned = plan_card(run_of(free_gib, train_batch_size=size).needs, run.free_bytes)
            offloads_more = planned is None or len(planned.offloaded) > len(own.offloaded)
            assert offloads_more == is_larger
    assert largest_batch(run_of(2)) is None


def test_the_published_example_fits_every_common_card() -> None:
    rows = card_rows(plan(), TRUE_CONFIG, image_px=1024**2)

    assert tuple(row.card_gib for row in rows) == SIZES_GIB
    assert all(row.planned is not None and row.refusal is None for row in rows)
    assert [len(row.planned.recomputed) for row in rows if row.planned][:2] == [0, 0]
    assert [len(row.planned.offloaded) for row in rows if row.planned][:3] == [0, 0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"model_type": "full", "lora_type": None, "base_model_precision": "no_change"},
        {"mixed_precision": "no"},
        {"base_model_matmul_precision": "no_change"},
    ],
)
def test_a_run_whose_blocks_are_not_fused_is_not_planned(options: dict[str, Any]) -> None:
    assert card_rows(plan(**options), TRUE_CONFIG, image_px=1024**2) == ()


@pytest.mark.parametrize(
    ("target", "on_older"), [("to_q", True), ("shared_experts.w1", True), ("experts.1.w2", False)]
)
def test_cards_of_8_fuse_8_bit_products_unless_a_routed_expert_is_adapted(
    target: str, on_older: bool
) -> None:
    lora = {"lora_type": "standard", "lora_rank": 8, "peft_lora_target_modules": [target]}
    adapted = plan(base_model_precision="int8-quanto", **lora)

    cards: list[tuple[MatmulKind, Capability | None, bool]] = [
        ("int8", (8, 6), on_older),
        ("int8", (9, 0), True),
        ("fp8", (8, 6), False),
        ("fp8", (8, 9), on_older),
        ("no_change", (9, 0), False),  # optimum-quanto converts
        ("int8", None, False),
        ("int8", (7, 5), False),
    ]
    for kind, capability, is_fused in cards:
        assert is_fused_on(adapted, kind, capability) == is_fused, (kind, capability)


@pytest.mark.parametrize("matmul", ["fp8", "no_change"])
def test_the_parts_of_the_base_are_all_of_it(matmul: MatmulKind) -> None:
    parts = fused_weights(model(matmul))
    weights, scales = base_bytes(model(matmul))

    assert sum(parts.blocks) + parts.conditioning + parts.rest == weights + scales
    in_bf16 = base_weight_bytes(plan(base_model_precision="no_change").identity, TRUE_CONFIG, 2)
    if matmul == "no_change":
        assert (weights, scales) == in_bf16
    else:
        assert 0.5 < weights / in_bf16[0] < 0.503  # biases and the first and last layers are bf16


def test_the_plan_names_the_linears_that_the_host_holds() -> None:
    needs = run_of(1).needs
    planned = needs.planned([3, 20], [20], streams=True)
    paths = host_linears(model(), planned)

    def size(path: str) -> int:
        linear = model().linears[path]
        bias = 2 * linear.out_features if linear.bias else 0
        held_in_8bit = linear.parameters - (linear.out_features if linear.bias else 0)
        return held_in_8bit + 4 * linear.out_features + bias

    assert sum(size(path) for path in paths) == planned.host_bytes
    block = {path for path in paths if path.startswith("single_stream_blocks.4.block.")}
    assert {path.split(".")[3] for path in block} == {"attn1", "ff_i", "adaLN_modulation"}
    assert host_linears(model(), needs.planned([3])) == frozenset()


def test_the_plan_is_told_in_one_line() -> None:
    needs = run_of(1).needs

    assert described(needs.planned(), 48).startswith("recomputes 0 of 48 blocks, estimated peak ")
    assert described(needs.planned(keeps_transposed=True), 48).startswith(
        "recomputes 0 of 48 blocks, holds 8-bit weights also transposed, estimated peak "
    )
    least = needs.planned([1, 2, 5], [2, 5], streams=True)
    assert described(least, 48) == (
        "recomputes 3 of 48 blocks, streams modulation and caption projections from the host, "
        "holds 2 blocks on the "
        f"host, estimated peak {least.peak_bytes / GIB:.1f} GiB"
    )


def test_offloaded_blocks_leave_two_buffers() -> None:
    weights = fused_weights(model())
    whole = weights.on_card(streamed=False, offloaded=frozenset())

    for blocks in ({0}, {0, 20}, {0, 20, 21, 40}):
        left = weights.on_card(streamed=False, offloaded=frozenset(blocks))
        ring = min(2, len(blocks)) * weights.blocks[0]
        assert left == whole - sum(weights.blocks[number] for number in blocks) + ring


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("single_stream_blocks.3.block.adaLN_modulation.1", "adaLN_modulation"),
        ("caption_projection.5.linear", "caption_projection"),
    ],
)
def test_conditioning_that_is_adapted_stays_on_the_card(target: str, stays: str) -> None:
    plain, adapted = fused_weights(model()), fused_weights(model(targets=(target,)))
    linear = model().linears[target]
    size = linear.parameters + 4 * linear.out_features + (linear.out_features if linear.bias else 0)

    assert plain.conditioning - adapted.conditioning == size
    assert adapted.rest - plain.rest == size
    assert stays in target


def test_the_modulation_stays_where_the_embedders_before_it_are_adapted() -> None:
    adapted = fused_weights(model(targets=("t_embedder.timestep_embedder.linear_1",)))
    captions = [each for path, each in model().linears.items() if path.startswith("caption_")]

    assert adapted.conditioning == sum(each.parameters + 4 * each.out_features for each in captions)


def test_recomputing_the_last_block_frees_nothing() -> None:
    needs = run_of(1).needs
    every = frozenset(range(48))

    assert activations_at_peak(needs.blocks, every, 0) == activations_at_peak(
        needs.blocks, every - {47}, 0
    )
    assert activations_at_peak(needs.blocks, every, 5) < activations_at_peak(
        needs.blocks, every - {46}, 5
    )
