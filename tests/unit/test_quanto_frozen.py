"""int8 base weights: what is quantised, and why the order of calls matters."""

from pathlib import Path

import pytest
import torch
from optimum.quanto import QLinear, freeze, qint8, quantize
from torch import nn

from tests.unit.test_lokr_adapter import adapter
from trainer_core.adapters.full import full_rank_parameters
from trainer_core.adapters.lokr import attach_lokr
from trainer_core.config.plan import Precision
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import load_text_encoders, load_transformer
from trainer_core.precision.compute import choose_compute, compute_on
from trainer_core.precision.quanto import quantize_frozen


def two_linears() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))


def test_every_linear_of_the_transformer_is_quantised(tiny_folder: Path) -> None:
    transformer = load_transformer(tiny_folder, torch.float32)
    linears = [n for n, part in transformer.named_modules() if isinstance(part, nn.Linear)]

    quantised = quantize_frozen(transformer, "int8-quanto")

    assert list(quantised) == linears
    assert len(quantised) == 106
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_no_change_only_freezes() -> None:
    model = two_linears()

    assert quantize_frozen(model, "no_change") == ()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_on_an_int8_base_learns() -> None:
    model, x = two_linears(), torch.randn(5, 64)
    exact = model(x)
    quantize_frozen(model, "int8-quanto")
    network = attach_lokr(model, adapter("0", "2", use_scalar=False), seed=1)

    output = model(x)
    output.square().mean().backward()

    assert isinstance(network.linears["0"].base, QLinear)
    assert 0 < (output - exact).abs().max() < 0.05
    for name in ("0.w2", "2.w2"):
        gradient = network.parameters()[name].grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_freezing_after_requires_grad_would_train_the_base() -> None:
    model = two_linears()

    quantize(model, weights=qint8)
    model.requires_grad_(False)
    freeze(model)

    assert any(parameter.requires_grad for parameter in model.parameters())


def test_quantising_after_the_adapter_would_break_it() -> None:
    """The order of ``quantize_frozen`` first is not a matter of taste."""
    model, x = two_linears(), torch.randn(5, 64)
    attach_lokr(model, adapter("0", "2"), seed=1)

    quantize_frozen(model, "int8-quanto")

    assert not model(x).requires_grad


def precision(base: str, compute: str) -> Precision:
    encoders = {f"text_encoder_{number}": "no_change" for number in (1, 2, 3, 4)}
    return Precision.model_validate({"base": base, "compute": compute, **encoders})


@pytest.mark.parametrize(
    ("base", "compute", "autocast"),
    [
        ("no_change", "bf16", True),
        ("no_change", "fp32", False),
        ("int8-quanto", "bf16", False),
    ],
)
def test_bf16_on_a_cpu_is_autocast_but_not_over_int8(
    base: str, compute: str, autocast: bool
) -> None:
    chosen = choose_compute("cpu", precision(base, compute))

    assert chosen.weights is torch.float32
    assert chosen.is_autocast is autocast


@pytest.mark.parametrize(
    ("base", "compute", "trains_base", "weights", "autocast"),
    [
        ("no_change", "bf16", False, torch.bfloat16, False),
        ("int8-quanto", "bf16", False, torch.bfloat16, False),
        ("no_change", "bf16", True, torch.float32, True),
        ("no_change", "fp32", True, torch.float32, False),
        ("no_change", "fp32", False, torch.float32, False),
    ],
)
def test_on_cuda_a_frozen_base_has_bf16_weights(
    base: str, compute: str, trains_base: bool, weights: torch.dtype, autocast: bool
) -> None:
    chosen = compute_on(torch.device("cuda"), precision(base, compute), trains_base=trains_base)

    assert (chosen.weights, chosen.is_autocast) == (weights, autocast)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_weights_that_are_trained_in_bf16_are_so_on_every_device(device: str) -> None:
    wanted = precision("no_change", "bf16").model_copy(update={"trained": "bf16"})

    trained = compute_on(torch.device(device), wanted, trains_base=True)

    assert (trained.weights, trained.is_autocast) == (torch.bfloat16, False)


def test_full_rank_trains_every_weight_in_the_type_of_the_plan() -> None:
    model = two_linears().requires_grad_(False)

    parameters = full_rank_parameters(model, torch.float32)

    assert list(parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(each.requires_grad for each in model.parameters())
    with pytest.raises(BaseModelError, match=r"0\.weight"):
        full_rank_parameters(two_linears().to(torch.bfloat16), torch.float32)
    assert full_rank_parameters(two_linears().to(torch.bfloat16), torch.bfloat16)
    quantised = two_linears()
    quantize_frozen(quantised, "int8-quanto")
    with pytest.raises(BaseModelError, match=r"0\.weight"):
        full_rank_parameters(quantised, torch.float32)


@pytest.mark.parametrize("encoder", ["t5", "llama", "clip_l", "clip_g"])
def test_every_text_encoder_can_be_quantised(tiny_folder: Path, encoder: str) -> None:
    encoders = load_text_encoders(tiny_folder, torch.float32)
    module = getattr(encoders, encoder).module
    tokens = torch.arange(8)[None]
    exact = module(tokens)[0]

    assert quantize_frozen(module, "int8-quanto")

    rounded = module(tokens)[0]
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
