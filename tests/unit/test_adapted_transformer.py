"""Adapters on the whole transformer: every one of them learns, and off they are not there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel

from tests.unit.lora_examples import lora
from trainer_core.adapters.attach import attach_adapter
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import hidream_linears, lokr_parameters, lora_parameters
from trainer_core.config.simpletuner.adapter import import_adapter
from trainer_core.config.simpletuner.reading import Findings
from trainer_core.hidream.loading import load_transformer
from trainer_core.hidream.objective import predict_velocity
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.quanto import quantize_frozen

LOKR: dict[str, dict[str, Any]] = {
    "full": {"full_matrix": True, "factor": 16},
    "low rank": {"linear_dim": 2, "linear_alpha": 1, "factor": 4},
    "both low": {"linear_dim": 1, "linear_alpha": 4, "factor": 4, "decompose_both": True},
}


def predict(transformer: HiDreamImageTransformer2DModel) -> torch.Tensor:
    """Deterministic inputs of a bucket that is no square."""
    draw = torch.Generator().manual_seed(5)
    text = TextEmbeddings(
        torch.randn(2, 16, 48, generator=draw),
        torch.randn(2, 3, 16, 64, generator=draw),
        torch.randn(2, 64, generator=draw),
    )
    noisy = torch.randn(2, 16, 8, 12, generator=draw)
    return predict_velocity(transformer.train(), noisy, torch.tensor([200.0, 700.0]), text)


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
    named = import_adapter(chosen, linears, None, findings, "local")
    assert named is not None
    adapter: LokrAdapter | LoraAdapter = named
    expected = lokr_parameters(named, linears)
    if kind == "lora":
        adapter = lora(*(module.path for module in named.modules))
        expected = lora_parameters(adapter, linears)
    transformer = load_transformer(tiny_folder, torch.float32)
    quantize_frozen(transformer, base)
    transformer.enable_gradient_checkpointing()
    with torch.no_grad():
        before = predict(transformer)

    network = attach_adapter(transformer, adapter, 3)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    after = predict(transformer)
    after.square().mean().backward()

    assert network.num_modules == len(linears) == 106
    assert sum(each.numel() for each in network.parameters().values()) == expected
    still = [
        name
        for name, each in network.parameters().items()
        if each.grad is None or not each.grad.any()
    ]
    assert not still
    assert (after - before).norm() > 0.01 * before.norm()
    with torch.no_grad(), network.disabled():
        assert torch.equal(predict(transformer), before)
    assert torch.equal(predict(transformer), after)
