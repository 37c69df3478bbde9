"""LoRA against its formula in float64, and the defaults of peft that it avoids."""

import pytest
import torch
from optimum.quanto import QLinear
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import nn
from torch.nn import functional

from tests.unit.lora_examples import lora
from trainer_core.adapters.attach import attach_adapter
from trainer_core.adapters.lora import LoraNetwork, attach_lora
from trainer_core.errors import BaseModelError
from trainer_core.precision.quanto import quantize_frozen


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 32, bias=False)])
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.blocks[1](self.blocks[0](x)))
        return hidden


def model_of(base: str) -> Model:
    torch.manual_seed(4)
    model = Model()
    if base.endswith("bf16"):
        model.to(torch.bfloat16)
    quantize_frozen(model, "int8-quanto" if base.startswith("int8") else "no_change")
    return model


def input_for(base: str) -> torch.Tensor:
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(9))
    return x.bfloat16() if base.endswith("bf16") else x


def randomise(network: LoraNetwork) -> None:
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in network.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)


BASES = ("fp32", "bf16", "int8", "int8 bf16")


@pytest.mark.parametrize("base", BASES)
def test_forward_and_gradients_are_those_of_the_formula(base: str) -> None:
    model, x = model_of(base), input_for(base)
    layer = model.blocks[0]
    before = layer(x)
    network = attach_lora(model, lora("blocks.0"), seed=1)
    randomise(network)
    a_rI, b_Or = (each.detach().double() for each in network.parameters().values())
    exact = x.double() @ a_rI.T @ b_Or.T * (6.0 / 4)

    after = model.blocks[0](x)
    after.float().square().sum().backward()

    tolerance = 1e-5 if after.dtype is torch.float32 else 0.02
    error = (after.double() - before.double() - exact).norm() / exact.norm()
    assert error < tolerance
    d_out = 2 * after.detach().double()
    wanted = {
        "blocks.0.lora_A": torch.einsum("nto,or,nti->ri", d_out, b_Or, x.double()) * 1.5,
        "blocks.0.lora_B": torch.einsum("nto,nti,ri->or", d_out, x.double(), a_rI) * 1.5,
    }
    for name, gradient in wanted.items():
        ours = network.parameters()[name].grad
        assert ours is not None
        assert (ours.double() - gradient).norm() < tolerance * gradient.norm()


@pytest.mark.parametrize("base", BASES)
def test_weights_are_fp32_and_the_only_trained_ones(base: str) -> None:
    model, x = model_of(base), input_for(base)
    before = model(x)

    network = attach_adapter(model, lora("blocks.1", "blocks.0"), 1)

    assert torch.equal(model(x), before)
    parameters = network.parameters()
    assert {name: tuple(each.shape) for name, each in parameters.items()} == {
        "blocks.1.lora_A": (4, 96),
        "blocks.1.lora_B": (32, 4),
        "blocks.0.lora_A": (4, 64),
        "blocks.0.lora_B": (96, 4),
    }
    assert network.num_modules == 2
    assert all(each.dtype is torch.float32 for each in parameters.values())
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    assert trained == {id(each) for each in parameters.values()}


@pytest.mark.parametrize("base", ["bf16", "int8 bf16"])
def test_peft_alone_would_hold_them_in_bf16(base: str) -> None:
    model = model_of(base)

    inject_adapter_in_model(LoraConfig(target_modules=["blocks.0"]), model)

    assert model.blocks[0].lora_A["default"].weight.dtype is torch.bfloat16


def test_peft_wraps_a_quantised_linear() -> None:
    model = model_of("int8")

    attach_lora(model, lora("blocks.0"), seed=1)

    assert isinstance(model.blocks[0], PeftLinear)
    assert isinstance(model.get_submodule("blocks.0.base_layer"), QLinear)


def test_quantising_afterwards_would_quantise_the_adapter() -> None:
    """Why ``quantize_frozen`` comes first."""
    model = model_of("fp32")
    network = attach_lora(model, lora("blocks.0"), seed=1)

    quantize_frozen(model, "int8-quanto")

    assert isinstance(model.get_submodule("blocks.0.lora_A.default"), QLinear)
    assert not any(each.requires_grad for each in network.parameters().values())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_disabled_is_the_base_and_is_undone(dropout: float) -> None:
    model, x = model_of("int8"), input_for("int8")
    before = model(x)
    network = attach_lora(model, lora("blocks.0", "blocks.1", dropout=dropout), seed=1)
    randomise(network)
    torch.manual_seed(3)
    adapted = model(x)
    assert not torch.equal(adapted, before)
    state = torch.get_rng_state()

    with network.switch.off(), network.switch.off():
        assert torch.equal(model(x), before)
    with pytest.raises(ZeroDivisionError), network.switch.off():
        _ = 1 / 0

    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.requires_grad for each in network.parameters().values())
    torch.manual_seed(3)
    assert torch.equal(model(x), adapted)
    with network.switch.off():
        with network.switch.off():
            pass
        assert torch.equal(model(x), before)


def test_dropout_draws_in_train_mode_only() -> None:
    model, x = model_of("fp32"), input_for("fp32")
    network = attach_lora(model, lora("blocks.0", dropout=0.5), seed=1)
    randomise(network)
    assert network.has_dropout
    assert not attach_lora(model_of("fp32"), lora("blocks.0"), seed=1).has_dropout

    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


class Twins(nn.Module):
    """Two linears that are the same, so that only their dropout differs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 48), nn.Linear(64, 48)
        self.two.load_state_dict(self.one.state_dict())


def adapted_twins(dropout: float) -> tuple[Twins, LoraNetwork]:
    torch.manual_seed(4)
    model = Twins()
    network = attach_lora(model, lora("one", "two", dropout=dropout), seed=1)
    randomise(network)
    parameters = network.parameters()
    with torch.no_grad():
        for name in ("lora_A", "lora_B"):
            parameters[f"two.{name}"].copy_(parameters[f"one.{name}"])
    return model, network


def seeded(
    model: Twins, network: LoraNetwork, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The outputs of both linears, and all gradients."""
    x = input_for("fp32").requires_grad_()
    with network.switch.seeded(None if seed is None else torch.tensor(seed)):
        one, two = model.one(x), model.two(x)
    loss = one.square().sum() + two.square().sum()
    trained = [x, *network.parameters().values()]
    return one, two, list(torch.autograd.grad(loss, trained))


def test_a_seed_decides_what_is_dropped_and_each_linear_drops_other_elements() -> None:
    model, network = adapted_twins(0.5)
    state = torch.get_rng_state()
    one, two, gradients = seeded(model, network, 7)
    one_again, two_again, gradients_again = seeded(model, network, 7)
    one_of_other, *_ = seeded(model, network, 8)

    assert torch.equal(one, one_again)
    assert torch.equal(two, two_again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))
    assert not torch.equal(one, two)
    assert not torch.equal(one, one_of_other)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeded_dropout_keeps_the_mean() -> None:
    model, network = adapted_twins(0.5)
    whole, *_ = seeded(*adapted_twins(0.0), None)
    draws = torch.stack([seeded(model, network, seed)[0].detach() for seed in range(400)])

    deviation = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - whole).abs() < 5 * deviation).all()


def test_without_a_seed_and_in_eval_mode_nothing_is_dropped() -> None:
    model, network = adapted_twins(0.5)
    whole, *_ = seeded(*adapted_twins(0.0), None)
    unseeded, *_ = seeded(model, network, None)
    in_eval, *_ = seeded(model.eval(), network, 7)

    assert torch.equal(unseeded, whole)
    assert torch.equal(in_eval, whole)


def test_outside_of_seeded_dropout_is_that_of_torch() -> None:
    model, network = adapted_twins(0.5)
    x = input_for("fp32")
    with pytest.raises(ZeroDivisionError), network.switch.seeded(torch.tensor(7)):
        _ = 1 / 0
    parameters = network.parameters()
    torch.manual_seed(3)
    found = model.one(x)
    torch.manual_seed(3)
    inner = functional.dropout(x, 0.5) @ parameters["one.lora_A"].t()
    delta = inner @ parameters["one.lora_B"].t() * (6.0 / 4)

    with network.switch.off():
        torch.testing.assert_close(found, model.one(x) + delta)


def test_an_adapter_joins_its_model_in_eval_mode() -> None:
    network = attach_lora(model_of("fp32").eval(), lora("blocks.0", dropout=0.5), seed=1)

    assert not any(part.training for part in network.layers["blocks.0"].modules())


def test_start_values_depend_on_seed_and_path_only() -> None:
    def start(seed: int, *paths: str, **changes: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(paths))
        network = attach_lora(model_of("fp32"), lora(*paths, **changes), seed=seed)
        return {name: each.detach() for name, each in network.parameters().items()}

    both, one, other = start(1, "blocks.0", "blocks.1"), start(1, "blocks.1"), start(2, "blocks.1")
    normal = start(1, "blocks.0", rank=32, init="gaussian")["blocks.0.lora_A"]

    assert torch.equal(both["blocks.1.lora_A"], one["blocks.1.lora_A"])
    assert not torch.equal(one["blocks.1.lora_A"], other["blocks.1.lora_A"])
    assert one["blocks.1.lora_A"].abs().max() <= 96**-0.5
    assert one["blocks.1.lora_A"].abs().max() > 0.95 * 96**-0.5
    assert normal.std().item() == pytest.approx(1 / 32, rel=0.05)
    assert not both["blocks.0.lora_B"].any()


@pytest.mark.parametrize("path", ["blocks.7", "norm"])
def test_a_path_that_is_not_a_linear_layer_is_named_in_the_error(path: str) -> None:
    model = model_of("fp32")

    with pytest.raises(BaseModelError, match=path):
        attach_lora(model, lora("blocks.0", path), seed=1)

    assert isinstance(model.blocks[0], nn.Linear)
