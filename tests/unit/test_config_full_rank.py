"""Options of full rank on one GPU become their parts of the plan."""

from typing import Any

import pytest

from tests.unit.config_examples import import_small, notices_of, problems_of

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
