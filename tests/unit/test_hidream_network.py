"""The transformer is changed once, in one order, and by nothing after that."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from optimum.quanto import QLinear
from torch import nn

from tests.support.jobs import demo_plan
from tests.support.networks import network_of
from trainer_core.adapters.lokr import LokrLinear
from trainer_core.adapters.lora import SwitchedLinear
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import LokrAdapter, LoraAdapter, Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.errors import BaseModelError
from trainer_core.hidream import network as network_module
from trainer_core.hidream.balance import ExpertGate
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import Network, prepare
from trainer_core.hidream.plain_blocks import PlainBlocks
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import choose_compute

BALANCED = {
    "hidream_use_load_balancing_loss": True,
    "hidream_load_balancing_loss_weight": 0.5,
}
LORA = {
    "lora_type": "standard",
    "lora_rank": 4,
    "lora_alpha": 4,
    "lora_dropout": 0.1,
    "lycoris_config": None,
}
FULL = {"model_type": "full", "lora_type": None, "base_model_precision": "no_change"}


def plan_of(tiny_folder: Path, **options: Any) -> Plan:
    options = {"pad_compat": True, **BALANCED, **options}
    return demo_plan(read_base_model(tiny_folder), edge_px=64, **options)


def prepared(tiny_folder: Path, plan: Plan) -> Network:
    trains_base = plan.identity.adapter is None
    compute = choose_compute("cpu", plan.identity.precision, trains_base=trains_base)
    return prepare(load_transformer(tiny_folder, compute.weights), plan, compute)


def batch_of(size: tuple[int, int], seed: int, *, prior: bool) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return Batch(
        noisy_BCHW=normal(2, 16, *size),
        target_BCHW=normal(2, 16, *size),
        sigmas_B=torch.rand(2, generator=draw),
        text=TextEmbeddings(normal(2, 5, 48), normal(2, 3, 5, 64), normal(2, 64)),
        mask_B1HW=normal(2, 1, *size).abs(),
        is_prior_B=torch.tensor([True, False]) if prior else None,
        dropout_seed=torch.tensor(seed),
    )


def structure_of(model: nn.Module) -> dict[str, Any]:
    """Everything about each module but the values of its weights: hooks, processors, attributes."""
    found: dict[str, Any] = {}
    for path, part in model.named_modules():
        found[path] = type(part)
        found |= {f"{path}:{name}": _comparable(value) for name, value in vars(part).items()}
    return found


def _comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return id(value), value.requires_grad
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, bool | int | float | str | tuple | None):
        return value
    return id(value)


@pytest.mark.parametrize("options", [{}, LORA, FULL], ids=["lokr", "lora", "full"])
def test_nothing_on_the_transformer_changes_while_it_trains(
    tiny_folder: Path, options: dict[str, Any]
) -> None:
    """Steps with balancing, masks, pads of two sizes, gradient checkpointing and the base's own
    prediction, with measuring in between. Looked at inside each forward and after each step."""
    plan = plan_of(tiny_folder, **options)
    network = prepared(tiny_folder, plan)
    backend = SingleProcess(network, plan)
    transformer = network.transformer
    seen: list[dict[str, Any]] = []
    transformer.final_layer.register_forward_pre_hook(
        lambda *_: seen.append(structure_of(transformer))
    )
    training, measuring = structure_of(transformer), structure_of(transformer.eval())
    transformer.train()

    for step, size in enumerate([(4, 6), (6, 4), (4, 4), (4, 6)], start=1):
        has_prior = network.adapter is not None and step % 2 == 0
        batch = batch_of(size, step, prior=has_prior)
        metrics = backend.launch([batch], count=1, step=step, learning_rate=1e-3).read()
        assert metrics.balance_loss is not None
        assert len(seen) == (2 if has_prior else 1)  # the base's own prediction is one more
        assert all(each == training for each in [*seen, structure_of(transformer)])
        seen.clear()
        transformer.eval()
        with torch.no_grad():
            backend.losses(batch_of(size, step, prior=False))
        assert seen == [measuring]
        seen.clear()
        transformer.train()
        assert structure_of(transformer) == training


@pytest.mark.parametrize("options", [{}, LORA], ids=["lokr", "lora"])
def test_the_base_is_quantised_then_gates_are_replaced_then_the_adapter_is_attached(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        function: Callable[..., Any] = getattr(network_module, name)

        def recorded(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*args, **options)

        monkeypatch.setattr(network_module, name, recorded)

    for name in ("quantize_frozen", "replace_gates", "attach_adapter"):
        record(name)
    plan = plan_of(tiny_folder, **options)

    network = prepared(tiny_folder, plan)

    assert calls == ["quantize_frozen", "replace_gates", "attach_adapter"]
    assert network.preparation == ("moved to cpu", "quantized 106 linears on cpu")
    assert network.adapter is not None
    assert isinstance(plan.identity.adapter, LokrAdapter | LoraAdapter)
    for module in plan.identity.adapter.modules:
        path = module if isinstance(module, str) else module.path
        layer = network.transformer.get_submodule(path)
        assert isinstance(layer, LokrLinear | SwitchedLinear)
        assert isinstance(
            layer.base if isinstance(layer, LokrLinear) else layer.base_layer, QLinear
        )
    trained = {id(each) for each in network.transformer.parameters() if each.requires_grad}
    assert trained == {id(each) for each in network.trained.values()}
    assert all(each.dtype is torch.float32 for each in network.trained.values())
    gates = [p for p in network.transformer.modules() if isinstance(p, ExpertGate | MoEGate)]
    assert [(type(gate), gate.has_loss) for gate in gates] == [(ExpertGate, True)] * 4
    assert network.transformer.training
    interval = plan.operation.gradient_checkpointing_interval
    assert _checkpointing_interval(network) == interval


def test_without_gradient_checkpointing_no_block_is_computed_again(tiny_folder: Path) -> None:
    plan = plan_of(tiny_folder, gradient_checkpointing=False)

    assert _checkpointing_interval(prepared(tiny_folder, plan)) is None


def _checkpointing_interval(network: Network) -> int | None:
    assert isinstance(network.blocks, PlainBlocks)
    return network.blocks.gradient_checkpointing_interval


def test_experts_together_compute_what_they_compute_one_by_one(tiny_folder: Path) -> None:
    """In bf16; rows of all experts in one product are what a CUDA graph can capture."""
    network = prepared(tiny_folder, plan_of(tiny_folder, **FULL, gradient_checkpointing=False))
    assert network.compute.is_autocast
    assert "rows of experts" in str(network.capture_refusal)  # of full rank, not of fused blocks

    one_by_one, separate = losses_and_gradient(tiny_folder, groups_experts=False)
    together, grouped = losses_and_gradient(tiny_folder, groups_experts=True)

    torch.testing.assert_close(together, one_by_one, rtol=1e-3, atol=0)
    # They differ less than bf16 rounds: by a quarter to a third of that on one CPU.
    _, exact = losses_and_gradient(tiny_folder, groups_experts=False, mixed_precision="no")
    assert (grouped - separate).norm() < 0.5 * (separate - exact).norm()


def losses_and_gradient(
    tiny_folder: Path, *, groups_experts: bool, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of one batch, and the gradient of all weights."""
    plan = plan_of(tiny_folder, **FULL, gradient_checkpointing=False, **options)
    network = prepared(tiny_folder, plan)
    assert isinstance(network.blocks, PlainBlocks)
    blocks = replace(network.blocks, groups_experts=groups_experts)
    losses = SingleProcess(replace(network, blocks=blocks), plan).losses(
        batch_of((4, 6), 1, prior=False)
    )
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert network.flat is not None
    assert network.flat.values.grad is not None
    return losses.detach(), network.flat.values.grad


def test_a_model_without_experts_cannot_be_balanced(tiny_folder: Path) -> None:
    plan = plan_of(tiny_folder)
    compute = choose_compute("cpu", plan.identity.precision)
    config = load_transformer(tiny_folder, compute.weights).config
    plain = HiDreamImageTransformer2DModel.from_config({**config, "num_routed_experts": 0})

    with pytest.raises(BaseModelError, match="no experts to balance"):
        prepare(plain, plan, compute)


def test_a_model_without_experts_trains_without_a_balancing_loss(tiny_folder: Path) -> None:
    plan = plan_of(tiny_folder, hidream_use_load_balancing_loss=None)
    compute = choose_compute("cpu", plan.identity.precision)
    config = load_transformer(tiny_folder, compute.weights).config
    plain = HiDreamImageTransformer2DModel.from_config({**config, "num_routed_experts": 0})
    network = network_of(plain.train(), compute=compute)
    across, square = (batch_of(size, 1, prior=False) for size in ((4, 6), (4, 4)))

    velocity, balance = network.velocity(across.noisy_BCHW, 1000 * across.sigmas_B, across.text)

    assert balance is None
    assert velocity.requires_grad
    timesteps, text = 1000 * square.sigmas_B, square.text
    with torch.no_grad():
        ours = network.velocity(square.noisy_BCHW, timesteps, text).velocity_BCHW
        stock = plain.eval()(
            square.noisy_BCHW, timesteps, text.t5, text.llama.transpose(0, 1), text.pooled
        ).sample
    assert torch.equal(ours, -stock)
