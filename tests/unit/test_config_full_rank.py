"""Options of full rank on one GPU become their parts of the plan."""

from typing import Any

import pytest

from tests.unit import memory_examples
from tests.unit.config_examples import BASE_MODELS, import_small, notices_of, problems_of
from trainer_core.config.simpletuner.importer import import_run

FULL = {"model_type": "full", "lora_type": None, "mixed_precision": "bf16"}
IN_BF16 = {"full_rank_weights": "bf16"}


def trained(config: dict[str, Any]) -> str:
    return import_small(config).plan.identity.precision.trained


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"optimizer": "adamw_bf16"}, "bf16"),
        ({"optimizer": "adamw_bf16", "full_rank_weights": "fp32"}, "fp32"),
        ({"optimizer": "adamw_bf16", "mixed_precision": "no"}, "fp32"),
        ({"optimizer": "adamw_bf16", "zero_stage": 2}, "fp32"),
        ({"optimizer": "torch-adamw"}, "fp32"),
        ({"optimizer": "torch-adamw", **IN_BF16}, "bf16"),
        ({"optimizer": "optimi-adamw", **IN_BF16}, "bf16"),
        ({"optimizer": "optimi-lion", **IN_BF16}, "bf16"),
        ({"optimizer": "bnb-lion8bit-paged"}, "fp32"),
    ],
)
def test_weights_are_in_bf16_with_adamw_bf16_or_as_told(
    config: dict[str, Any], expected: str
) -> None:
    assert trained({**FULL, **config}) == expected


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"optimizer": "bnb-lion8bit-paged"}, "round small updates to nothing"),
        ({"optimizer": "prodigy", "learning_rate": 1}, "round small updates to nothing"),
        ({"optimizer": "optimi-lion", "zero_stage": 2}, "DeepSpeed"),
        ({"optimizer": "optimi-lion", "mixed_precision": "no"}, "mixed_precision no"),
    ],
)
def test_weights_in_bf16_are_refused_where_they_cannot_be_rounded(
    config: dict[str, Any], says: str
) -> None:
    ((pointer, message),) = problems_of({**FULL, **IN_BF16, **config}, messages=True)

    assert pointer == "/config/full_rank_weights"
    assert says in message
    assert "set it to fp32" in message


def test_an_adapter_is_fp32() -> None:
    assert trained({"optimizer": "adamw_bf16"}) == "fp32"
    assert any("full_rank_weights" in told for told in notices_of(IN_BF16))
    assert any("fp32 weights" in told for told in notices_of({"optimizer": "adamw_bf16"}))


def released(config: dict[str, Any]) -> tuple[bool, str | None]:
    plan = import_small({**FULL, **config}).plan
    clip = plan.identity.clip
    return plan.operation.release_gradients, clip.method if clip else None


RELEASED = {"optimizer_release_gradients": True}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"optimizer": "adamw_bf16"}, (True, "value")),
        ({"optimizer": "adamw_bf16", "grad_clip_method": "norm"}, (False, "norm")),
        ({"optimizer": "adamw_bf16", "gradient_accumulation_steps": 2}, (False, "value")),
        ({"optimizer": "adamw_bf16", "optimizer_release_gradients": False}, (False, "value")),
        ({"optimizer": "adamw_bf16", "grad_clip_method": "previous_norm"}, (True, "previous_norm")),
        ({"optimizer": "torch-adamw"}, (False, "value")),
        ({"optimizer": "torch-adamw", **RELEASED}, (True, "value")),
        ({"optimizer": "torch-adamw", "max_grad_norm": 0, **RELEASED}, (True, None)),
        (
            {"optimizer": "optimi-lion", "grad_clip_method": "norm", **RELEASED},
            (True, "previous_norm"),
        ),
    ],
)
def test_gradients_are_released_for_bf16_or_as_told(
    config: dict[str, Any], expected: tuple[bool, str | None]
) -> None:
    assert released(config) == expected


def test_clipping_by_the_norm_of_the_step_before_is_told() -> None:
    told = notices_of({**FULL, **RELEASED, "optimizer": "optimi-lion", "grad_clip_method": "norm"})

    assert any("previous_norm" in each for each in told)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"gradient_accumulation_steps": 2, "optimizer": "adamw_bf16"}, "several batches"),
        ({"optimizer": "bnb-lion8bit-paged"}, "updates all weights at once"),
    ],
)
def test_gradients_that_have_to_be_kept_are_not_released(config: dict[str, Any], says: str) -> None:
    ((pointer, message),) = problems_of({**FULL, **RELEASED, **config}, messages=True)

    assert pointer == "/config/optimizer_release_gradients"
    assert says in message


def test_released_gradients_have_no_effect_on_adapters_and_with_deepspeed() -> None:
    for config in (RELEASED, {**FULL, **RELEASED, "zero_stage": 2}):
        assert any("optimizer_release_gradients" in told for told in notices_of(config))
        assert not import_small(config).plan.operation.release_gradients


def test_deepspeed_has_no_norm_of_the_step_before() -> None:
    config = {**FULL, "zero_stage": 2, "grad_clip_method": "previous_norm"}

    assert problems_of(config) == [("/config/grad_clip_method", "conflict")]


LARGE: dict[str, Any] = {
    "model_type": "full",
    "lora_type": None,
    "base_model_precision": "no_change",
    "mixed_precision": "bf16",
    "optimizer": "optimi-lion",
    "gradient_accumulation_steps": 1,
    "grad_clip_method": "value",
}


@pytest.mark.parametrize(
    ("config", "trained", "released"),
    [
        ({}, "bf16", True),
        ({"full_rank_weights": "fp32"}, "fp32", False),
        ({"optimizer": "bnb-lion8bit-paged"}, "fp32", False),
        ({"zero_stage": 2}, "fp32", False),
    ],
)
def test_weights_too_large_for_a_card_in_fp32_are_in_bf16(
    config: dict[str, Any], trained: str, released: bool
) -> None:
    plan = memory_examples.plan(**LARGE | config)

    assert plan.identity.precision.trained == trained
    assert plan.operation.release_gradients == released


def test_why_large_weights_are_in_bf16_is_told() -> None:
    imported = import_run(
        config={**memory_examples.CONFIG, **LARGE},
        lycoris_config=None,
        data_backends=[{"id": "cats", "caption_strategy": "filename"}],
        prompt_library=None,
        base_models=BASE_MODELS,
        source="http",
    )

    (told,) = (n.message for n in imported.notices if n.option == "full_rank_weights")
    assert "in fp32, weights, gradients and state take 205 GB" in told
