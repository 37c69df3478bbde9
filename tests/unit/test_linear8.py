"""Linear layers whose frozen weights are held in 8 bits."""

import pytest
import torch
from torch import nn

from tests.support.rows_in_8_bits import DTYPES
from tests.unit.hidream_oracle import model_of
from trainer_core.precision.linear8 import Linear8, held_form, hold_in_8bit, linear8_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype8", "error"), [(torch.float8_e4m3fn, 0.04), (torch.int8, 0.01)], ids=str
)
def test_the_held_weight_is_near_the_whole_one(dtype8: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)

    held = linear8_of(linear, dtype8, CPU)

    assert (held.in_features, held.out_features) == (96, 40)
    assert held.rows8.dtype == dtype8
    difference = held.weight - linear.weight
    assert difference.norm() < error * linear.weight.norm()


@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2, 40])
def test_it_multiplies_the_weight_that_it_holds(dtype8: torch.dtype, rows: int) -> None:
    torch.manual_seed(1)
    held = linear8_of(nn.Linear(96, 40), dtype8, CPU)
    input_ = torch.randn(3, rows, 96, requires_grad=rows > 16)

    output = held(input_)

    expected = nn.functional.linear(input_, held.weight, held.bias)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    if rows > 16:
        output.sum().backward()
        expected_grad = held.weight.sum(dim=0).expand_as(input_)
        torch.testing.assert_close(input_.grad, expected_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype8", DTYPES, ids=str)
def test_each_linear_of_the_transformer_is_held_as_its_place_says(dtype8: torch.dtype) -> None:
    model = model_of("small").float().requires_grad_(False)
    linears = {path for path, part in model.named_modules() if isinstance(part, nn.Linear)}

    count = hold_in_8bit(model, CPU, dtype8)

    held = {path: part for path, part in model.named_modules() if isinstance(part, Linear8)}
    assert count == len(held)
    assert held.keys() == {path for path in linears if held_form(path) != "plain"}
    for path, layer in held.items():
        wanted = dtype8 if held_form(path) == "multiplied" else torch.int8
        assert layer.rows8.dtype == wanted, path
    kept = linears - held.keys()
    assert {path.split(".")[0] for path in kept} == {
        "final_layer",
        "p_embedder",
        "t_embedder",
        "x_embedder",
    }
    assert held_form("single_stream_blocks.3.block.ff_i.experts.1.w2") == "multiplied"
    assert held_form("double_stream_blocks.0.block.adaLN_modulation.1") == "converted"
