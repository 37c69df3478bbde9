"""What is trained beside the base, and what of it is written down."""

import json
from typing import Any, Final

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Group
from tests.integration.plan_fields.world import Files, World, stock_linears
from trainer_core.adapters.lokr import LokrLinear
from trainer_core.config.plan import Plan
from trainer_core.errors import BaseModelError

GROUP: Final = Group()
_PATH: Final = "double_stream_blocks.0.block.attn1.to_q"
_LOKR: Final = "identity.adapter(lokr)"
_LORA: Final = "identity.adapter(lora)"

_SPLIT: Final = Files(lycoris={"full_matrix": False, "linear_dim": 4, "linear_alpha": 2.0})
"""w2 a product over rank 4, at half strength."""
_STANDARD: Final = Files(
    config={"lora_type": "standard", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.25}
)


def _attention_of(world: World) -> set[str]:
    return {name for name in stock_linears(world) if ".attn1." in name}


def _paths_of(world: World, plan: Plan, kind: type[nn.Module]) -> set[str]:
    modules = world.parts(plan).network.transformer.named_modules()
    return {name for name, part in modules if isinstance(part, kind)}


def _lokr_shapes(world: World, plan: Plan) -> dict[str, tuple[int, ...]]:
    linear = world.parts(plan).network.transformer.get_submodule(_PATH)
    return {name: tuple(p.shape) for name, p in linear.named_parameters(recurse=False)}


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


@GROUP.observes(f"{_LOKR}.kind", reset=_to_lora)
@GROUP.observes(
    f"{_LOKR}.modules[].path",
    reset="double_stream_blocks.0.block.ff_t.w1",
    at=0,
)
def lokr_where_attention_is(plan: Plan, world: World) -> None:
    expect(_paths_of(world, plan, LokrLinear), _attention_of(world))


@GROUP.observes(f"{_LOKR}.modules[].factor", reset=8)
def split_by_factor(plan: Plan, world: World) -> None:
    expect(_lokr_shapes(world, plan), {"w1": (4, 4), "w2": (32, 32)})


@GROUP.observes(f"{_LOKR}.modules[].dim", files=_SPLIT, reset=8)
@GROUP.observes(
    f"{_LOKR}.modules[].full_matrix",
    files=_SPLIT,
    reset=True,
)
def split_by_rank(plan: Plan, world: World) -> None:
    expect(_lokr_shapes(world, plan), {"w1": (4, 4), "w2_a": (32, 4), "w2_b": (4, 32)})


@GROUP.observes(
    f"{_LOKR}.modules[].decompose_both",
    files=Files(lycoris={"full_matrix": False, "linear_dim": 1, "decompose_both": True}),
    reset=False,
)
def both_split(plan: Plan, world: World) -> None:
    expected = {"w1_a": (4, 1), "w1_b": (1, 4), "w2_a": (32, 1), "w2_b": (1, 32)}
    expect(_lokr_shapes(world, plan), expected)


@GROUP.observes(
    f"{_LOKR}.modules[].use_scalar",
    files=Files(lycoris={"use_scalar": True}),
    reset=False,
)
def with_scalar(plan: Plan, world: World) -> None:
    expect(_lokr_shapes(world, plan), {"w1": (4, 4), "w2": (32, 32), "scalar": (1,)})


@torch.no_grad()
def _added(linear: nn.Module, base: nn.Module) -> torch.Tensor:
    """What an adapter of random values adds for the unit inputs: its delta, float64 [out, in]."""
    draw = torch.Generator().manual_seed(5)
    for parameter in linear.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    ones = torch.eye(128)
    return (linear(ones) - base(ones)).double().T


@GROUP.observes(
    f"{_LOKR}.multiplier",
    files=Files(lycoris={"multiplier": 0.5}),
    reset=1.0,
)
def at_half_strength(plan: Plan, world: World) -> None:
    linear = world.parts(plan).network.transformer.get_submodule(_PATH)
    delta = _added(linear, linear.base)
    expected = 0.5 * torch.kron(linear.w1.double(), linear.w2.double())
    expect_close(delta, expected, rtol=1e-4, atol=1e-4)


@GROUP.observes(f"{_LOKR}.modules[].alpha", files=_SPLIT, reset=3.0)
def scaled_by_alpha(plan: Plan, world: World) -> None:
    linear = world.parts(plan).network.transformer.get_submodule(_PATH)
    delta = _added(linear, linear.base)
    w2 = linear.w2_a.double() @ linear.w2_b.double()
    expected = 2.0 / 4 * torch.kron(linear.w1.double(), w2)
    expect_close(delta, expected, rtol=1e-4, atol=1e-4)


@GROUP.observes(
    f"{_LOKR}.init_lokr_norm",
    files=Files(config={"init_lokr_norm": 0.01}),
    reset=0.02,
)
def starts_near(plan: Plan, world: World) -> None:
    linear = world.parts(plan).network.transformer.get_submodule(_PATH)
    expect(linear.w1.tolist(), torch.ones(4, 4).tolist())
    expected = 0.01 * linear.base.weight.std().item()
    expect(linear.w2.std().item(), pytest.approx(expected, rel=0.1))


_WRITTEN: Final = Files(
    lycoris={
        "full_matrix": False,
        "factor": 4,
        "linear_dim": 1,
        "linear_alpha": 2.0,
        "decompose_both": True,
        "use_scalar": True,
    }
)


def _enter_written() -> None:
    """What the LyCORIS config beside the result says."""
    resets = {
        "full_matrix": True,
        "factor": 8,
        "linear_dim": 2,
        "linear_alpha": 3.0,
        "decompose_both": False,
        "use_scalar": False,
    }
    for name, reset in resets.items():

        def check(plan: Plan, world: World, name: str = name) -> None:
            written = json.loads((world.result(plan) / "lycoris_config.json").read_text())
            expect(written[name], _WRITTEN.lycoris[name])

        GROUP.observes(
            f"{_LOKR}.{name}",
            files=_WRITTEN,
            reset=reset,
        )(check)


_enter_written()


@GROUP.observes(f"{_LORA}.kind", files=_STANDARD, reset=_to_lokr)
@GROUP.observes(f"{_LORA}.modules[]", files=_STANDARD, reset=[_PATH])
def lora_where_attention_is(plan: Plan, world: World) -> None:
    expect(_paths_of(world, plan, LoraLayer), _attention_of(world))


def _lora_at(world: World, plan: Plan) -> Any:
    return world.parts(plan).network.transformer.get_submodule(_PATH)


@GROUP.observes(f"{_LORA}.rank", files=_STANDARD, reset=2)
def of_rank(plan: Plan, world: World) -> None:
    layer = _lora_at(world, plan)
    shapes = [tuple(part["default"].weight.shape) for part in (layer.lora_A, layer.lora_B)]
    expect(shapes, [(4, 128), (128, 4)])


@GROUP.observes(f"{_LORA}.alpha", files=_STANDARD, reset=4.0)
def lora_scaled_by_alpha(plan: Plan, world: World) -> None:
    layer = _lora_at(world, plan).eval()
    delta = _added(layer, layer.base_layer)
    down, up = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
    expect_close(delta, 8 / 4 * up @ down, rtol=1e-4, atol=1e-3)


@GROUP.observes(f"{_LORA}.dropout", files=_STANDARD, reset=0.5)
@torch.no_grad()
def drops_out(plan: Plan, world: World) -> None:
    layer = _lora_at(world, plan)
    dropout = layer.lora_dropout["default"]
    kept = (dropout(torch.ones(10_000)) > 0).double().mean().item()
    expect(kept, pytest.approx(0.75, abs=0.03))


@GROUP.observes(
    f"{_LORA}.init",
    files=Files(config={"lora_type": "standard", "lora_rank": 4, "lora_init_type": "gaussian"}),
    reset="default",
)
def starts_as_a_normal(plan: Plan, world: World) -> None:
    spread = _lora_at(world, plan).lora_A["default"].weight.std().item()
    expect(spread, pytest.approx(1 / 4, rel=0.15))


@GROUP.observes(
    "identity.base.digest",
    reset="0" * 64,
    refuses=(BaseModelError,),
)
def on_that_base(plan: Plan, world: World) -> None:
    described = json.loads((world.base.folder / "reverie-base.json").read_text())["digest"]
    shards = world.index(plan).shards
    expect({shard.spec.encoder["base_digest"] for shard in shards}, {described})
    expect(world.parts(plan).network.trainable_modules, 24)


@GROUP.observes("identity.base.name", reset="hidream-wide")
def named_in_the_result(plan: Plan, world: World) -> None:
    file = world.result(plan) / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as adapter:
        expect(adapter.metadata()["base_model"], "hidream-tiny")


@GROUP.observes("identity.model_type", reset="lora")
def on_the_card(plan: Plan, world: World) -> None:
    expect(json.loads((world.result(plan) / "card.json").read_text())["model_type"], "lokr")
