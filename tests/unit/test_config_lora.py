"""Which layers LoRA adapts, as in peft."""

from collections.abc import Sequence
from typing import Any

import pytest
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from tests.support.lycoris_oracle import meta_model
from tests.unit.config_examples import TINY_CONFIG, TRUE_CONFIG
from trainer_core.config.plan import LoraAdapter
from trainer_core.config.plan.shapes import LinearShape, hidream_linears, lora_parameters
from trainer_core.config.simpletuner.lora import LORA, lora_of
from trainer_core.config.simpletuner.reading import Findings, read_options

LINEARS = hidream_linears(TINY_CONFIG)


def lora(
    config: dict[str, Any], linears: Sequence[LinearShape] | None = None
) -> tuple[LoraAdapter | None, Findings]:
    findings = Findings()
    options = read_options(config, LORA.rows, "/config", findings, "local")
    return lora_of(options, LINEARS if linears is None else linears), findings


@pytest.mark.parametrize(
    ("targets", "modules", "parameters"),
    [
        (None, 256, 20_971_520),
        ("attn+shared+ff_t", 448, 42_401_792),
        ("all-but-experts", 552, 65_804_288),
        ("all", 1128, None),
        (["to_q", "to_k", "to_v"], 144, 11_796_480),
        ('["to_q", "to_k", "to_v", "to_out"]', 192, None),
    ],
)
def test_lora_has_the_published_counts(targets: Any, modules: int, parameters: int | None) -> None:
    linears = hidream_linears(TRUE_CONFIG)

    adapter, _ = lora({"peft_lora_target_modules": targets}, linears)

    assert adapter is not None
    assert len(adapter.modules) == modules
    if parameters is not None:
        assert lora_parameters(adapter, linears) == parameters


@pytest.mark.parametrize(
    "names",
    [["to_q"], ["attn1.to_out_t", "w2"], ["final_layer.linear", "0.block.attn1.to_v"], ["linear"]],
)
def test_lora_targets_are_those_of_peft(names: list[str]) -> None:
    model = meta_model(TINY_CONFIG)
    inject_adapter_in_model(LoraConfig(target_modules=names), model)

    adapter, _ = lora({"peft_lora_target_modules": names})

    assert adapter is not None
    wrapped = [path for path, part in model.named_modules() if isinstance(part, LoraLayer)]
    assert list(adapter.modules) == wrapped


def test_lora_options_have_their_defaults() -> None:
    adapter, _ = lora({})
    other, _ = lora(
        {"lora_rank": "4", "lora_alpha": 2, "lora_dropout": 0, "lora_init_type": "gaussian"}
    )

    assert adapter is not None
    assert other is not None
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.init) == (
        16,
        16.0,
        0.1,
        "default",
    )
    assert (other.rank, other.alpha, other.dropout, other.init) == (4, 2.0, 0.0, "gaussian")


AT = "/config/peft_lora_target_modules"


@pytest.mark.parametrize(
    ("config", "pointer", "said"),
    [
        ({"peft_lora_target_modules": ["to_qq"]}, AT, "to_q"),
        ({"--peft_lora_target_modules": ["attn1"]}, "/config/--peft_lora_target_modules", "inside"),
        ({"peft_lora_target_modules": ["attn"]}, AT, "alone"),
        ({"peft_lora_target_modules": "atn"}, AT, "all-but-experts"),
        ({"peft_lora_target_modules": "[to_q"}, AT, "list"),
        ({"peft_lora_target_modules": []}, AT, "leave it out"),
        ({"peft_lora_target_modules": [1]}, AT, "list of names"),
        ({"peft_lora_target_modules": "[" * 9999}, AT, "list"),
        ({"lora_rank": 0}, "/config/lora_rank", "at least 1"),
        ({"lora_alpha": 0}, "/config/lora_alpha", "above 0"),
        ({"lora_dropout": 1}, "/config/lora_dropout", "at most 0.99"),
    ],
)  # fmt: skip
def test_a_wrong_lora_is_named(config: dict[str, Any], pointer: str, said: str) -> None:
    adapter, findings = lora(config)

    assert adapter is None
    (problem,) = findings.problems
    assert problem.pointer == pointer
    assert said in problem.message
