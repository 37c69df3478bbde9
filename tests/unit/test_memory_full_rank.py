"""The memory of full rank on one GPU, counted without torch, beside what a run holds."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit import memory_examples
from tests.unit.config_examples import TRUE_CONFIG
from tests.unit.test_engine_full_rank import backend_of, bf16_batch, step
from tests.unit.test_engine_full_rank import plan as plan  # noqa: PLC0414 - a fixture
from tests.unit.test_memory import memory_of, tiny_plan
from trainer_core.base_models.known import PartConfigs
from trainer_core.config.plan import Plan
from trainer_core.memory.report import Memory, plan_memory

PARTS = PartConfigs(transformer=TRUE_CONFIG, text_encoders=(None,) * 4, vae=None)
FULL: dict[str, Any] = {
    "model_type": "full",
    "lora_type": None,
    "base_model_precision": "no_change",
    "mixed_precision": "bf16",
    "use_ema": False,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 0,
}


@pytest.mark.parametrize("name", ["adamw", "optimi-lion"])
def test_weights_and_state_in_bf16_are_counted_to_the_byte(
    tiny_folder: Path, plan: Plan, name: str
) -> None:
    backend = backend_of(tiny_folder, plan, name=name)
    step(backend, 1, bf16_batch(1))
    held = backend.tensors()

    optimizer = "torch-adamw" if name == "adamw" else name
    counted = memory_of(
        tiny_plan(**FULL | {"optimizer": optimizer, "full_rank_weights": "bf16", "device": "cpu"})
    )

    assert counted.base_weights_bytes == sum(each.nbytes for each in held.parameters.values())
    assert counted.optimizer_state_bytes == sum(v.nbytes for v in held.optimizer_state.values())


def true_memory(**options: Any) -> Memory:
    wanted = memory_examples.plan(**FULL | options)
    return plan_memory(wanted, PARTS, largest_image_px=1024**2)


def test_gradients_that_are_freed_take_less_than_a_tenth_of_the_weights() -> None:
    kept, freed = (
        true_memory(optimizer="adamw_bf16", optimizer_release_gradients=released)
        for released in (False, True)
    )

    assert kept.gradients_bytes == kept.base_weights_bytes
    assert 0 < freed.gradients_bytes < kept.gradients_bytes / 10
    assert kept.total_bytes - freed.total_bytes == kept.gradients_bytes - freed.gradients_bytes


def test_lion_in_bf16_fits_80_gb_and_fp32_does_not_fit_any_card() -> None:
    """By arithmetic: it was not measured on a card."""
    lion = {"optimizer": "optimi-lion", "gradient_checkpointing_interval": 1}
    in_bf16 = true_memory(**lion, full_rank_weights="bf16")
    in_fp32 = true_memory(**lion, full_rank_weights="fp32")

    assert in_bf16.total_bytes < 80e9
    assert in_fp32.total_bytes > 200e9
    assert true_memory(optimizer="adamw_bf16").total_bytes < 141e9
