"""The ZeRO stage of a full-rank run on cards of a size, and what it is counted to need there."""

from typing import Any

import pytest

from tests.unit.config_examples import TRUE_CONFIG, import_small
from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan
from trainer_core.memory.report import Memory, plan_memory
from trainer_core.memory.sharding import sharding_rows
from trainer_core.memory.trained import trained_parameters
from trainer_core.memory.zero_choice import ZeroChoice, choose_zero

NAME = "HiDream-ai/HiDream-I1-Full"
GIB = 2**30
IMAGE_PX = 1024 * 1024
PARTS = PartConfigs(transformer=TRUE_CONFIG, text_encoders=(None,) * 4, vae=None)


def plan_of(**options: Any) -> Plan:
    """All weights of the true model, with AdamW, in bf16 on CUDA."""
    written = {"model_type": "full", "pretrained_model_name_or_path": NAME}
    optimizer = {"optimizer": "torch-adamw", "mixed_precision": "bf16"}
    return import_small({**written, **optimizer, **options}, without=("lora_type",)).plan


def memory_of(**options: Any) -> Memory:
    return plan_memory(plan_of(**options), PARTS, largest_image_px=IMAGE_PX)


def chosen(card_gib: float, host_gib: float | None = None, **options: Any) -> ZeroChoice:
    return choose_zero(
        plan_of(**options),
        TRUE_CONFIG,
        card_bytes=round(card_gib * GIB),
        host_bytes=None if host_gib is None else round(host_gib * GIB),
        image_px=IMAGE_PX,
    )


@pytest.mark.parametrize(
    ("options", "weights", "masters", "gradients"),
    [
        # Bytes of each trained number on one of 8 ranks.
        ({"zero_stage": 0}, 2, 4, 2),
        ({"zero_stage": 1}, 2, 4 / 8, 2),
        ({"zero_stage": 2}, 2, 4 / 8, 2 / 8),
        ({"zero_stage": 3}, 2 / 8, 4 / 8, 2 / 8),
        ({"zero_stage": 2, "mixed_precision": "no"}, 4, 4 / 8, 4 / 8),
        ({"zero_stage": 3, "mixed_precision": "no"}, 4 / 8, 0, 4 / 8),  # it updates the model's own
    ],
)
def test_weights_are_bf16_beside_the_fp32_ones_that_deepspeed_updates(
    options: dict[str, Any], weights: float, masters: float, gradients: float
) -> None:
    memory, number = (
        memory_of(world_size=8, **options),
        trained_parameters(plan_of().identity, TRUE_CONFIG),
    )

    assert memory.base_weights_bytes == pytest.approx(number * weights, abs=1)
    assert memory.master_weights_bytes == pytest.approx(number * masters, abs=1)
    assert memory.gradients_bytes == pytest.approx(number * gradients, abs=1)
    parts = memory.base_weights_bytes + memory.master_weights_bytes + memory.gradients_bytes
    parts += memory.optimizer_state_bytes + memory.deepspeed_buffers_bytes
    assert memory.held_bytes == parts


def test_what_is_offloaded_is_counted_to_the_host() -> None:
    here, away = (memory_of(world_size=4, zero_stage=2, zero_offload=o) for o in ("none", "cpu"))

    moved = here.master_weights_bytes + here.optimizer_state_bytes
    assert away.held_bytes == here.held_bytes - moved
    assert away.host_bytes > moved
    assert (here.host_bytes, away.update_bytes) == (0, 0)
    mean = memory_of(world_size=4, zero_stage=2, use_ema=True)
    assert mean.host_bytes == mean.ema_bytes == here.master_weights_bytes


@pytest.mark.parametrize(
    ("ranks", "card_gib", "stage", "offload"),
    [
        (8, 79, 2, "none"),
        (8, 47, 3, "none"),
        (4, 139, 2, "none"),
        (4, 79, 3, "none"),
        (2, 139, 3, "none"),
        (2, 79, 2, "cpu"),
        (2, 47, 3, "cpu"),
    ],
)
def test_the_lowest_stage_that_fits_is_taken(
    ranks: int, card_gib: float, stage: int, offload: str
) -> None:
    choice = chosen(card_gib, world_size=ranks)

    assert (choice.stage, choice.offload, choice.fits) == (stage, offload, True)
    assert choice.peak_estimate_bytes <= card_gib * GIB
    placed = choice.applied(plan_of(world_size=ranks)).operation
    assert (placed.zero_stage, placed.zero_offload) == (stage, offload)


def test_a_sentence_says_why() -> None:
    choice = chosen(139, world_size=2)

    needs, would = choice.peak_estimate_bytes, memory_of(world_size=2, zero_stage=2).total_bytes
    assert choice.reason == (
        f"ZeRO stage 3 needs about {needs / GIB:.1f} GiB of the 139.0 GiB of each card; "
        f"ZeRO stage 2 would need {would / GIB:.1f} GiB"
    )


def test_a_host_that_is_too_small_gets_nothing() -> None:
    rich, poor = (chosen(47, host_gib, world_size=2) for host_gib in (1000, 100))

    assert (rich.fits, rich.offload) == (True, "cpu")
    assert (poor.fits, poor.reason.startswith("by the estimate nothing fits: ")) == (False, True)


def test_what_is_written_bounds_the_choice() -> None:
    assert not chosen(79, world_size=2, zero_offload="none").fits
    away = chosen(139, world_size=8, zero_offload="cpu")
    assert (away.stage, away.offload) == (2, "cpu")
    third = chosen(79, world_size=2, zero_stage=3, zero_offload="auto")
    assert (third.stage, third.offload) == (3, "cpu")
    alone = chosen(79, zero_offload="auto")
    assert (alone.stage, alone.offload) == (2, "cpu")


def test_cards_of_common_sizes_are_shown_only_where_the_plan_leaves_it_open() -> None:
    rows = sharding_rows(plan_of(world_size=8), TRUE_CONFIG, image_px=IMAGE_PX)

    assert [(row.card_gib, row.choice.stage) for row in rows][:2] == [(80, 2), (48, 3)]
    assert not rows[-1].choice.fits
    assert not sharding_rows(plan_of(world_size=8, zero_stage=2), TRUE_CONFIG, image_px=IMAGE_PX)
