"""Adapters on the whole transformer: all of them learn, and turned off they have no effect."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.networks import network_of
from tests.unit.lora_examples import lora
from trainer_core.adapters.attach import attach_adapter
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import hidream_linears, lokr_parameters, lora_parameters
from trainer_core.config.simpletuner.lokr import lokr_of
from trainer_core.config.simpletuner.reading import Findings
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.network import Network
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute
from trainer_core.precision.quanto import quantize_frozen

CPU32 = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
LOKR: dict[str, dict[str, Any]] = {
    "full": {"full_matrix": True, "factor": 16},
    "low rank": {"linear_dim": 2, "linear_alpha": 1, "factor": 4},
    "both low": {"linear_dim": 1, "linear_alpha": 4, "factor": 4, "decompose_both": True},
}


def predict(network: Network, *, with_adapter: bool = True) -> torch.Tensor:
    """Deterministic inputs of a bucket that is no square."""
    draw = torch.Generator().manual_seed(5)
    text = TextEmbeddings(
        torch.randn(2, 16, 48, generator=draw),
        torch.randn(2, 3, 16, 64, generator=draw),
        torch.randn(2, 64, generator=draw),
    )
    noisy = torch.randn(2, 16, 8, 12, generator=draw)
    timesteps = torch.tensor([200.0, 700.0])
    if with_adapter:
        return network.velocity(noisy, timesteps, text).velocity_BCHW
    return network.base_velocity(noisy, timesteps, text)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("full", "int8-quanto"),
        ("low rank", "int8-quanto"),
        ("both low", "no_change"),
        ("lora", "no_change"),
        ("lora", "int8-quanto"),
    ],
)
def test_every_adapted_layer_learns_and_off_the_model_is_its_base(
    tiny_folder: Path, kind: str, base: Any
) -> None:
    config = json.loads((tiny_folder / "transformer" / "config.json").read_text())
    linears = hidream_linears(config)
    findings = Findings()
    chosen = {"algo": "lokr", "preset": "all", "use_scalar": False, **LOKR.get(kind, LOKR["full"])}
    named = lokr_of(chosen, linears, None, findings, "local")
    assert named is not None
    adapter: LokrAdapter | LoraAdapter = named
    expected = lokr_parameters(named, linears)
    if kind == "lora":
        adapter = lora(*(module.path for module in named.modules))
        expected = lora_parameters(adapter, linears)
    transformer = load_transformer(tiny_folder, torch.float32)
    quantize_frozen(transformer, base)
    transformer.train()
    with torch.no_grad():
        before = predict(network_of(transformer, compute=CPU32))

    attached = attach_adapter(transformer, adapter, 3)
    network = network_of(transformer, attached, compute=CPU32, gradient_checkpointing_interval=1)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    after = predict(network)
    after.square().mean().backward()

    assert attached.num_modules == len(linears) == 106
    assert sum(each.numel() for each in attached.parameters().values()) == expected
    still = [
        name
        for name, each in attached.parameters().items()
        if each.grad is None or not each.grad.any()
    ]
    assert not still
    assert (after - before).norm() > 0.01 * before.norm()
    assert torch.equal(predict(network, with_adapter=False), before)
    assert torch.equal(predict(network), after)
