"""LoKr against a float64 Kronecker product, and against LyCORIS."""

import pytest
import torch
from lycoris.modules.lokr import LokrModule
from torch import nn

from trainer_core.adapters.lokr import LokrLinear, attach_lokr
from trainer_core.config.plan import AdaptedModule, LokrAdapter
from trainer_core.config.shapes import lokr_shape
from trainer_core.errors import BaseModelError

SHAPES = [(128, 128, 16), (128, 512, 16), (48, 128, 4), (64, 96, -1), (7, 13, 16)]


def adapter(*paths: str, factor: int = 16, **changes: object) -> LokrAdapter:
    fields: dict[str, object] = {
        "full_matrix": True,
        "factor": factor,
        "linear_dim": 16384,
        "linear_alpha": 1.0,
        "multiplier": 1.0,
        "use_scalar": True,
        "rules": (),
        "modules": tuple(AdaptedModule(path=path, factor=factor) for path in paths),
    }
    return LokrAdapter.model_validate(fields | changes)


def random_lokr(n_in: int, n_out: int, factor: int) -> LokrLinear:
    draw = torch.Generator().manual_seed(n_in * 1000 + n_out)
    shape = lokr_shape(n_in, n_out, factor)
    w1, w2 = torch.randn(shape.w1, generator=draw), torch.randn(shape.w2, generator=draw)
    linear = LokrLinear(nn.Linear(n_in, n_out), w1, w2, train_scalar=True)
    with torch.no_grad():
        linear.scalar.fill_(-0.3)
    linear.multiplier = 0.7
    return linear


@pytest.mark.parametrize(("n_in", "n_out", "factor"), SHAPES)
def test_delta_is_the_kronecker_product(n_in: int, n_out: int, factor: int) -> None:
    linear = random_lokr(n_in, n_out, factor)
    x = torch.randn(2, 5, n_in)
    weight = torch.kron(linear.w1.double(), linear.w2.double()) * -0.3 * 0.7
    expected = x.double() @ (weight + linear.base.weight.double()).T + linear.base.bias.double()

    torch.testing.assert_close(linear(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize(("n_in", "n_out", "factor"), SHAPES)
def test_forward_and_gradients_equal_lycoris(
    n_in: int, n_out: int, factor: int, bypass: bool
) -> None:
    ours = random_lokr(n_in, n_out, factor)
    ours.multiplier = 1.0
    base = nn.Linear(n_in, n_out)
    base.load_state_dict(ours.base.state_dict())
    theirs = LokrModule(
        "x",
        base,
        lora_dim=16384,
        factor=factor,
        full_matrix=True,
        use_scalar=True,
        bypass_mode=bypass,
    )
    with torch.no_grad():
        theirs.lokr_w1.copy_(ours.w1)
        theirs.lokr_w2.copy_(ours.w2)
        theirs.scalar.copy_(ours.scalar[0])
    theirs.apply_to()
    x = torch.randn(3, n_in)

    mine, other = ours(x), base(x)

    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    pairs = ((ours.w1, theirs.lokr_w1), (ours.w2, theirs.lokr_w2), (ours.scalar, theirs.scalar))
    for our, their in pairs:
        assert our.grad is not None
        torch.testing.assert_close(our.grad.flatten(), their.grad.flatten(), atol=1e-5, rtol=1e-4)


def test_autocast_and_bf16_inputs_work() -> None:
    linear = random_lokr(128, 512, 16)
    x = torch.randn(4, 128)
    exact = linear(x)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = linear(x)
    linear.base.to(torch.bfloat16)
    halved = linear(x.bfloat16())

    assert mixed.dtype is halved.dtype is torch.bfloat16
    for rounded in (mixed, halved):
        assert (rounded.float() - exact).abs().max() / exact.abs().max() < 0.02
    halved.float().sum().backward()
    assert linear.w2.grad is not None
    assert linear.w2.grad.dtype is torch.float32


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 128)])
        self.norm = nn.LayerNorm(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.blocks[1](self.blocks[0](x)))
        return hidden


@pytest.mark.parametrize("use_scalar", [True, False])
def test_an_untrained_adapter_changes_nothing(use_scalar: bool) -> None:
    model, x = Model(), torch.randn(3, 64)
    before = model(x)

    network = attach_lokr(model, adapter("blocks.0", "blocks.1", use_scalar=use_scalar), seed=1)

    assert torch.equal(model(x), before)
    names = ["w1", "w2", "scalar"] if use_scalar else ["w1", "w2"]
    assert list(network.parameters()) == [f"blocks.{i}.{n}" for i in (0, 1) for n in names]
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


def test_init_lokr_norm_starts_near_the_base_weights_statistics() -> None:
    model = Model()
    with torch.no_grad():
        model.blocks[1].weight.normal_(0.5, 2.0)

    network = attach_lokr(model, adapter("blocks.1", init_lokr_norm=1e-3, use_scalar=False), seed=3)

    linear = network.linears["blocks.1"]
    assert torch.equal(linear.w1, torch.ones_like(linear.w1))
    assert linear.w2.std().item() == pytest.approx(2e-3, rel=0.5)
    assert linear.scalar.item() == 1.0


def test_multiplier_zero_is_the_base() -> None:
    model, x = Model(), torch.randn(3, 64)
    before = model(x)
    network = attach_lokr(model, adapter("blocks.0", use_scalar=False), seed=1)
    with torch.no_grad():
        network.linears["blocks.0"].w2.normal_()
    assert not torch.equal(model(x), before)

    network.set_multiplier(0.0)

    assert torch.equal(model(x), before)


@pytest.mark.parametrize("path", ["blocks.7", "norm"])
def test_a_path_that_is_no_linear_is_named(path: str) -> None:
    with pytest.raises(BaseModelError, match=path):
        attach_lokr(Model(), adapter(path), seed=1)
