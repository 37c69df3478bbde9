"""LoKr against a float64 Kronecker product, and against LyCORIS."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pytest
import torch
from lycoris.modules.lokr import LokrModule
from optimi import Lion
from torch import nn

from tests.unit.lora_examples import lora
from trainer_core.adapters.lokr import LokrLinear, LokrNetwork, attach_lokr
from trainer_core.adapters.lora import LoraNetwork, attach_lora
from trainer_core.config.plan import LokrAdapter
from trainer_core.errors import BaseModelError
from trainer_core.precision.quanto import quantize_frozen

Network = TypeVar("Network")

SHAPES = [(128, 128, 16), (128, 512, 16), (48, 128, 4), (64, 96, -1), (7, 13, 16)]
KINDS: dict[str, dict[str, object]] = {
    "full": {},
    "large rank": {"full_matrix": False, "dim": 64, "alpha": 5.0},
    "low rank": {"full_matrix": False, "dim": 2, "alpha": 3.0},
    "both low": {"full_matrix": False, "dim": 1, "alpha": 0.5, "decompose_both": True},
    "no scalar": {"full_matrix": False, "dim": 2, "alpha": 3.0, "use_scalar": False},
}


def adapter(
    *paths: str, factor: int = 16, init_lokr_norm: float | None = None, **changes: object
) -> LokrAdapter:
    """Full matrices with a scalar, with ``changes`` for every module."""
    module: dict[str, object] = {
        "factor": factor,
        "dim": 16384,
        "alpha": 1.0,
        "full_matrix": True,
        "decompose_both": False,
        "use_scalar": True,
    }
    module |= changes
    return LokrAdapter.model_validate(
        {
            "full_matrix": module["full_matrix"],
            "factor": factor,
            "linear_dim": module["dim"],
            "linear_alpha": module["alpha"],
            "decompose_both": module["decompose_both"],
            "multiplier": 1.0,
            "use_scalar": module["use_scalar"],
            "init_lokr_norm": init_lokr_norm,
            "modules": tuple({"path": path, **module} for path in paths),
        }
    )


def randomised(linear: LokrLinear, seed: int = 5) -> LokrLinear:
    """Set every trained tensor to normal values, so that none is at its start value 0."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in linear.parameters(recurse=False):
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return linear


def random_lokr(n_in: int, n_out: int, factor: int, kind: str = "full") -> LokrLinear:
    torch.manual_seed(n_in * 1000 + n_out)
    model = nn.Sequential(nn.Linear(n_in, n_out))
    network = attach_lokr(model, adapter("0", factor=factor, **KINDS[kind]), seed=3)
    return randomised(network.linears["0"])


def expected_delta(linear: LokrLinear, kind: str) -> torch.Tensor:
    """The whole delta of the weight as a Kronecker product, float64, from the trained tensors."""
    tensors = {
        name: each.detach().double() for name, each in linear.named_parameters(recurse=False)
    }

    def matrix(name: str) -> torch.Tensor:
        whole = tensors.get(name)
        return tensors[f"{name}_a"] @ tensors[f"{name}_b"] if whole is None else whole

    options: Any = KINDS[kind]
    scale = options["alpha"] / options["dim"] if "w2_b" in tensors else 1.0
    scalar = tensors.get("scalar", torch.ones(1)).item()
    return torch.kron(matrix("w1"), matrix("w2")) * scale * scalar * linear.multiplier


def close(ours: torch.Tensor, exact: torch.Tensor, share: float) -> bool:
    return bool((ours.double() - exact).norm() <= share * exact.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_in", "n_out", "factor"), SHAPES)
def test_delta_is_the_kronecker_product(n_in: int, n_out: int, factor: int, kind: str) -> None:
    linear = random_lokr(n_in, n_out, factor, kind)
    linear.multiplier = 0.7
    x = torch.randn(2, 5, n_in)
    exact = expected_delta(linear, kind)

    assert close(linear.delta(x), x.double() @ exact.T, 1e-6)
    whole = exact + linear.base.weight.double()
    assert close(linear(x), x.double() @ whole.T + linear.base.bias.double(), 1e-6)


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_in", "n_out", "factor"), SHAPES)
def test_forward_and_gradients_equal_lycoris(
    n_in: int, n_out: int, factor: int, kind: str, bypass: bool
) -> None:
    ours = random_lokr(n_in, n_out, factor, kind).double()
    base = nn.Linear(n_in, n_out)
    base.load_state_dict(ours.base.state_dict())
    options = {"full_matrix": True, "use_scalar": True} | KINDS[kind]
    theirs = LokrModule(
        "x",
        base,
        lora_dim=options.pop("dim", 16384),
        factor=factor,
        bypass_mode=bypass,
        **options,
    ).double()
    base.double()
    mine = dict(ours.named_parameters(recurse=False))
    names = {f"lokr_{name}" if name != "scalar" else name: name for name in mine}
    other = dict(theirs.named_parameters())
    assert names.keys() == other.keys()
    with torch.no_grad():
        for name, parameter in other.items():
            parameter.copy_(mine[names[name]].reshape(parameter.shape))
    theirs.apply_to()
    x = torch.randn(3, n_in, dtype=torch.float64)

    here, there = ours(x), base(x)

    torch.testing.assert_close(here, there, atol=1e-10, rtol=1e-10)
    here.square().mean().backward()
    there.square().mean().backward()
    for name, parameter in other.items():
        gradient = mine[names[name]].grad
        assert gradient is not None
        torch.testing.assert_close(
            gradient.flatten(), parameter.grad.flatten(), atol=1e-10, rtol=1e-10
        )


BASES = ("fp32", "fp32 autocast", "bf16", "int8", "int8 bf16")


def on_base(base: str, attach: Callable[[nn.Module], Network]) -> tuple[nn.Module, Network]:
    """A linear layer from 128 to 512 in the types of ``base``, and the result of ``attach``."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(128, 512))
    if base.endswith("bf16"):
        model.to(torch.bfloat16)
    quantize_frozen(model, "int8-quanto" if base.startswith("int8") else "no_change")
    return model, attach(model)


def input_for(base: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(6, 128, generator=draw)
    return x.bfloat16() if base.endswith("bf16") else x


def context(base: str) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16, enabled=base.endswith("autocast"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_a_delta_of_1e_5_is_accurate_on_every_base(base: str, kind: str) -> None:
    def attach(model: nn.Module) -> LokrNetwork:
        return attach_lokr(model, adapter("0", **KINDS[kind]), seed=1)

    model, network = on_base(base, attach)
    linear = randomised(network.linears["0"])
    linear.multiplier = 1e-5 / expected_delta(linear, kind).std().item()
    x = input_for(base)
    exact = x.double() @ expected_delta(linear, kind).T

    with context(base), torch.no_grad():
        part = linear.delta(x)
        with network.switch.off():
            without = model(x)
        whole = model(x)

    assert close(part, exact, 0.01)
    if whole.dtype is torch.float32:  # a bf16 sum rounds the delta
        assert close(whole.double() - without.double(), exact, 0.01)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["full", "both low", "lora"])
def test_a_step_at_rate_1e_7_changes_the_weights_on_every_base(base: str, kind: str) -> None:
    def attach(model: nn.Module) -> LokrNetwork | LoraNetwork:
        if kind == "lora":
            return attach_lora(model, lora("0"), seed=1)
        return attach_lokr(model, adapter("0", **KINDS[kind]), seed=1)

    model, network = on_base(base, attach)
    parameters = network.parameters()
    draw = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(0.3 + 0.1 * torch.rand(parameter.shape, generator=draw))
    before = {name: each.detach().clone() for name, each in parameters.items()}
    optimizer = Lion(list(parameters.values()), lr=1e-7)

    with context(base):
        loss = model(input_for(base)).float().square().mean()
    loss.backward()
    optimizer.step()

    for name, parameter in parameters.items():
        assert parameter.dtype is torch.float32
        assert (parameter != before[name]).float().mean() > 0.9, name
        assert torch.equal(parameter.bfloat16(), before[name].bfloat16()), "bf16 would not move"


def test_lycoris_without_bypass_loses_a_small_delta_on_a_bf16_base() -> None:
    """By default LyCORIS adds the delta to the bf16 weight, which rounds it away."""
    torch.manual_seed(0)
    base = nn.Linear(256, 256, bias=False)
    with torch.no_grad():
        base.weight.normal_(0, 0.02)
    base.to(torch.bfloat16)
    theirs = LokrModule("x", base, lora_dim=16384, factor=16, full_matrix=True)
    with torch.no_grad():
        theirs.lokr_w1.normal_()
        theirs.lokr_w2.normal_(0, 1e-5)
    x = torch.randn(8, 256).bfloat16()
    before = base(x).double()
    exact = x.double() @ torch.kron(theirs.lokr_w1.double(), theirs.lokr_w2.double()).T
    delta = theirs._rebuild_forward(x).double() - before

    assert not close(delta, exact, 0.5)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 128)])
        self.norm = nn.LayerNorm(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.blocks[1](self.blocks[0](x)))
        return hidden


@pytest.mark.parametrize("use_scalar", [True, False])
def test_an_untrained_adapter_does_not_change_the_output(use_scalar: bool) -> None:
    model, x = Model(), torch.randn(3, 64)
    before = model(x)

    network = attach_lokr(model, adapter("blocks.0", "blocks.1", use_scalar=use_scalar), seed=1)

    assert torch.equal(model(x), before)
    names = ["w1", "w2", "scalar"] if use_scalar else ["w1", "w2"]
    assert sorted(network.parameters()) == sorted(f"blocks.{i}.{n}" for i in (0, 1) for n in names)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in network.parameters().values()}
    assert all(p.dtype is torch.float32 and p.ndim > 0 for p in network.parameters().values())


def test_start_values_depend_on_seed_and_path_only() -> None:
    def start(seed: int, *paths: str) -> dict[str, torch.Tensor]:
        network = attach_lokr(Model(), adapter(*paths), seed=seed)
        return {name: p.detach() for name, p in network.parameters().items()}

    both, one, other = start(1, "blocks.0", "blocks.1"), start(1, "blocks.1"), start(2, "blocks.1")

    assert torch.equal(both["blocks.1.w2"], one["blocks.1.w2"])
    assert not torch.equal(one["blocks.1.w1"], other["blocks.1.w1"])
    assert one["blocks.1.w2"].abs().max() <= one["blocks.1.w2"].shape[1] ** -0.5
    assert one["blocks.1.w2"].abs().max() > 0.9 * one["blocks.1.w2"].shape[1] ** -0.5


def test_init_lokr_norm_draws_w2_with_scaled_statistics_of_the_base() -> None:
    model = Model()
    with torch.no_grad():
        model.blocks[1].weight.normal_(0.5, 2.0)

    network = attach_lokr(model, adapter("blocks.1", init_lokr_norm=1e-3, use_scalar=False), seed=3)

    linear = network.linears["blocks.1"]
    assert torch.equal(linear.w1, torch.ones_like(linear.w1))
    assert linear.w2.std().item() == pytest.approx(2e-3, rel=0.5)
    assert linear.scalar.item() == 1.0


def test_multiplier_zero_computes_the_base_alone() -> None:
    model, x = Model(), torch.randn(3, 64)
    before = model(x)
    network = attach_lokr(model, adapter("blocks.0", use_scalar=False), seed=1)
    with torch.no_grad():
        network.linears["blocks.0"].w2.normal_()
    assert not torch.equal(model(x), before)

    network.linears["blocks.0"].multiplier = 0.0

    assert torch.equal(model(x), before)


@pytest.mark.parametrize("path", ["blocks.7", "norm"])
def test_a_path_that_is_not_a_linear_layer_is_named_in_the_error(path: str) -> None:
    with pytest.raises(BaseModelError, match=path):
        attach_lokr(Model(), adapter(path), seed=1)
