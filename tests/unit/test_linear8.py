"""Linear layers whose frozen weights are held in 8 bits."""

import pytest
import torch
from torch import nn

from tests.unit.hidream_oracle import model_of
from trainer_core.precision.linear8 import HeldForm, Linear8, held_form, hold_in_8bit, linear8_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(("form", "error"), [("e4m3", 0.04), ("int8", 0.01)])
def test_the_held_weight_is_near_the_whole_one(form: HeldForm, error: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    assert form != "plain"

    held = linear8_of(linear, form, CPU)

    assert (held.in_features, held.out_features) == (96, 40)
    assert held.rows8.element_size() == 1
    difference = held.weight - linear.weight
    assert difference.norm() < error * linear.weight.norm()


@pytest.mark.parametrize("form", ["e4m3", "int8"])
@pytest.mark.parametrize("rows", [2, 40])
def test_it_multiplies_the_weight_that_it_holds(form: HeldForm, rows: int) -> None:
    torch.manual_seed(1)
    assert form != "plain"
    held = linear8_of(nn.Linear(96, 40), form, CPU)
    input_ = torch.randn(3, rows, 96, requires_grad=rows > 16)

    output = held(input_)

    expected = nn.functional.linear(input_, held.weight, held.bias)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    if rows > 16:
        output.sum().backward()
        expected_grad = held.weight.sum(dim=0).expand_as(input_)
        torch.testing.assert_close(input_.grad, expected_grad, rtol=1e-4, atol=1e-4)


def test_each_linear_of_the_transformer_is_held_as_its_place_says() -> None:
    model = model_of("small").float().requires_grad_(False)
    linears = {path for path, part in model.named_modules() if isinstance(part, nn.Linear)}

    count = hold_in_8bit(model, CPU)

    held = {path: part for path, part in model.named_modules() if isinstance(part, Linear8)}
    assert count == len(held)
    assert held.keys() == {path for path in linears if held_form(path) != "plain"}
    for path, layer in held.items():
        is_e4m3 = layer.rows8.dtype is torch.float8_e4m3fn
        assert is_e4m3 == (held_form(path) == "e4m3"), path
    kept = linears - held.keys()
    assert {path.split(".")[0] for path in kept} == {
        "final_layer",
        "p_embedder",
        "t_embedder",
        "x_embedder",
    }
    assert held_form("single_stream_blocks.3.block.ff_i.experts.1.w2") == "e4m3"
    assert held_form("double_stream_blocks.0.block.adaLN_modulation.1") == "int8"
