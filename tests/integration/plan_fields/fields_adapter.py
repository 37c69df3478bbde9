"""The adapter, the base model under it, and the facts of both in the result."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from tests.integration.plan_fields.environment import Environment, stock_linears
from tests.integration.plan_fields.files import Files
from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Check, Group
from trainer_core.adapters.lokr import LokrLinear
from trainer_core.config.plan import Plan
from trainer_core.engine.setup import load_run
from trainer_core.errors import AdapterFileError, BaseModelError
from trainer_core.process.control import Control

GROUP: Final = Group()
_PATH: Final = "double_stream_blocks.0.block.attn1.to_q"
_LOKR: Final = "identity.adapter(lokr)"
_LORA: Final = "identity.adapter(lora)"

_LOW_RANK: Final = {"full_matrix": False, "linear_dim": 4, "linear_alpha": 2.0}
"""LyCORIS config: w2 is a product over rank 4, with the scale 1/2."""
_STANDARD: Final = Files(
    config={"lora_type": "standard", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.25}
)


def _to_lora(body: dict[str, Any]) -> None:
    modules = [module["path"] for module in body["identity"]["adapter"]["modules"]]
    lora = {"kind": "lora", "rank": 4, "alpha": 4.0, "dropout": 0.0, "init": "default"}
    body["identity"]["adapter"] = {**lora, "modules": modules}


def _to_lokr(body: dict[str, Any]) -> None:
    common = {"full_matrix": True, "factor": 4, "decompose_both": False, "use_scalar": False}
    own = {"factor": 4, "dim": 4, "alpha": 4.0, **common}
    modules = [{"path": path, **own} for path in body["identity"]["adapter"]["modules"]]
    lokr = {"kind": "lokr", "linear_dim": 4, "linear_alpha": 4.0, "multiplier": 1.0, **common}
    body["identity"]["adapter"] = {**lokr, "modules": modules}


def _adapted_layers_are(kind: type[nn.Module]) -> Check:
    def every_attention_linear_is_adapted(plan: Plan, environment: Environment) -> None:
        modules = environment.load(plan).network.transformer.named_modules()
        found = {name for name, part in modules if isinstance(part, kind)}
        expect(found, {name for name in stock_linears(environment) if ".attn1." in name})

    return every_attention_linear_is_adapted


GROUP.add(f"{_LOKR}.kind", _adapted_layers_are(LokrLinear), reset=_to_lora)
GROUP.add(
    f"{_LOKR}.modules[].path",
    _adapted_layers_are(LokrLinear),
    reset="double_stream_blocks.0.block.ff_t.w1",
    at=0,
)
GROUP.add(f"{_LORA}.kind", _adapted_layers_are(LoraLayer), files=_STANDARD, reset=_to_lokr)
GROUP.add(f"{_LORA}.modules[]", _adapted_layers_are(LoraLayer), files=_STANDARD, reset=[_PATH])


_STARTED: Final = Files(config={"init_lora": "earlier"}, init_lora=Files(config={"seed": 7}))


@GROUP.observes(
    "identity.start_adapter.sha256",
    files=_STARTED,
    reset="0" * 64,
    refuses=(AdapterFileError,),
)
def the_run_starts_from_the_planned_adapter(plan: Plan, environment: Environment) -> None:
    earlier = environment.earlier_result(_STARTED)
    assert earlier is not None
    job = environment.job(plan).model_copy(update={"start_from": str(earlier)})
    trained = load_run(job, Control(None)).network.trained
    assert _STARTED.init_lora is not None
    first = environment.load(environment.plan(_STARTED.init_lora)).network.trained
    for name, parameter in trained.items():
        expect_close(parameter, first[name], rtol=0, atol=0)


def _layer(plan: Plan, environment: Environment) -> Any:
    """One adapted linear, of 128 to 128."""
    return environment.load(plan).network.transformer.get_submodule(_PATH)


_FULL_SHAPES: Final = {"w1": (4, 4), "w2": (32, 32)}
_LOW_RANK_SHAPES: Final = {"w1": (4, 4), "w2_a": (32, 4), "w2_b": (4, 32)}
_SHAPES: Final[tuple[tuple[str, dict[str, Any], Any, dict[str, tuple[int, ...]]], ...]] = (
    # field, LyCORIS config, reset, shapes of the trained tensors
    ("factor", {}, 8, _FULL_SHAPES),
    ("dim", _LOW_RANK, 8, _LOW_RANK_SHAPES),
    ("full_matrix", _LOW_RANK, True, _LOW_RANK_SHAPES),
    (
        "decompose_both",
        {"full_matrix": False, "linear_dim": 1, "decompose_both": True},
        False,
        {"w1_a": (4, 1), "w1_b": (1, 4), "w2_a": (32, 1), "w2_b": (1, 32)},
    ),
    ("use_scalar", {"use_scalar": True}, False, {**_FULL_SHAPES, "scalar": (1,)}),
)


def _shapes_are(expected: dict[str, tuple[int, ...]]) -> Check:
    def the_trained_tensors_have_these_shapes(plan: Plan, environment: Environment) -> None:
        parameters = _layer(plan, environment).named_parameters(recurse=False)
        expect({name: tuple(each.shape) for name, each in parameters}, expected)

    return the_trained_tensors_have_these_shapes


for _name, _lycoris, _reset, _shapes in _SHAPES:
    GROUP.add(
        f"{_LOKR}.modules[].{_name}",
        _shapes_are(_shapes),
        files=Files(lycoris=_lycoris),
        reset=_reset,
    )


@torch.no_grad()
def _delta(linear: nn.Module, base: nn.Module) -> torch.Tensor:
    """What an adapter with random values adds to the weight, float64, [out, in]."""
    draw = torch.Generator().manual_seed(5)
    for parameter in linear.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    ones = torch.eye(128)
    return (linear(ones) - base(ones)).double().T


def _lokr_delta_is_scaled_by(factor: float) -> Check:
    def the_delta_is_the_scaled_kronecker_product(plan: Plan, environment: Environment) -> None:
        linear = _layer(plan, environment)
        delta = _delta(linear, linear.base)
        if linear.w2 is not None:
            w2 = linear.w2.double()
        else:
            w2 = linear.w2_a.double() @ linear.w2_b.double()
        expect_close(delta, factor * torch.kron(linear.w1.double(), w2), rtol=1e-4, atol=1e-4)

    return the_delta_is_the_scaled_kronecker_product


GROUP.add(
    f"{_LOKR}.multiplier",
    _lokr_delta_is_scaled_by(0.5),
    files=Files(lycoris={"multiplier": 0.5}),
    reset=1.0,
)
GROUP.add(
    f"{_LOKR}.modules[].alpha",
    _lokr_delta_is_scaled_by(2.0 / 4),
    files=Files(lycoris=_LOW_RANK),
    reset=3.0,
)


@GROUP.observes(f"{_LOKR}.init_lokr_norm", files=Files(config={"init_lokr_norm": 0.01}), reset=0.02)
def w2_starts_with_the_scaled_statistics_of_the_base(plan: Plan, environment: Environment) -> None:
    linear = _layer(plan, environment)
    expect(linear.w1.tolist(), torch.ones(4, 4).tolist())
    expected = 0.01 * linear.base.weight.std().item()
    expect(linear.w2.std().item(), pytest.approx(expected, rel=0.1))


_WRITTEN: Final = {
    "full_matrix": False,
    "factor": 4,
    "linear_dim": 1,
    "linear_alpha": 2.0,
    "decompose_both": True,
    "use_scalar": True,
}
_WRITTEN_RESETS: Final[dict[str, Any]] = {
    "full_matrix": True,
    "factor": 8,
    "linear_dim": 2,
    "linear_alpha": 3.0,
    "decompose_both": False,
    "use_scalar": False,
}


def _result_json(plan: Plan, environment: Environment, name: str) -> Any:
    return json.loads((environment.result(plan) / name).read_text())


def _lycoris_config_has(name: str) -> Check:
    def the_result_has_the_lycoris_config(plan: Plan, environment: Environment) -> None:
        written = _result_json(plan, environment, "lycoris_config.json")
        expect(written[name], _WRITTEN[name])

    return the_result_has_the_lycoris_config


for _name, _reset in _WRITTEN_RESETS.items():
    GROUP.add(
        f"{_LOKR}.{_name}", _lycoris_config_has(_name), files=Files(lycoris=_WRITTEN), reset=_reset
    )


@GROUP.observes(f"{_LORA}.rank", files=_STANDARD, reset=2)
def the_matrices_have_the_rank(plan: Plan, environment: Environment) -> None:
    layer = _layer(plan, environment)
    shapes = [tuple(part["default"].weight.shape) for part in (layer.lora_A, layer.lora_B)]
    expect(shapes, [(4, 128), (128, 4)])


@GROUP.observes(f"{_LORA}.alpha", files=_STANDARD, reset=4.0)
def the_lora_delta_is_scaled_by_alpha_over_rank(plan: Plan, environment: Environment) -> None:
    layer = _layer(plan, environment).eval()
    delta = _delta(layer, layer.base_layer)
    down, up = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
    expect_close(delta, 8 / 4 * up @ down, rtol=1e-4, atol=1e-3)


@GROUP.observes(f"{_LORA}.dropout", files=_STANDARD, reset=0.5)
@torch.no_grad()
def a_quarter_of_the_inputs_is_dropped(plan: Plan, environment: Environment) -> None:
    dropout = _layer(plan, environment).lora_dropout["default"]
    kept = (dropout(torch.ones(10_000)) > 0).double().mean().item()
    expect(kept, pytest.approx(0.75, abs=0.03))


@GROUP.observes(
    f"{_LORA}.init",
    files=Files(config={"lora_type": "standard", "lora_rank": 4, "lora_init_type": "gaussian"}),
    reset="default",
)
def lora_a_starts_normal(plan: Plan, environment: Environment) -> None:
    spread = _layer(plan, environment).lora_A["default"].weight.std().item()
    expect(spread, pytest.approx(1 / 4, rel=0.15))


@GROUP.observes("identity.base.digest", reset="0" * 64, refuses=(BaseModelError,))
def entries_and_network_are_of_this_base(plan: Plan, environment: Environment) -> None:
    described = json.loads((Path(environment.base.folder) / "reverie-base.json").read_text())
    encodings = environment.index(plan).encodings
    expect({each.encoder["base_digest"] for each in encodings}, {described["digest"]})
    expect(environment.load(plan).network.trainable_modules, 24)


@GROUP.observes("identity.base.name", reset="hidream-wide")
def the_weights_file_names_the_base(plan: Plan, environment: Environment) -> None:
    file = environment.result(plan) / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as adapter:
        expect(adapter.metadata()["base_model"], "hidream-tiny")


@GROUP.observes("identity.model_type", reset="lora")
def the_card_names_the_model_type(plan: Plan, environment: Environment) -> None:
    expect(_result_json(plan, environment, "card.json")["model_type"], "lokr")
