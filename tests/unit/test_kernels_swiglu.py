"""SwiGLU with a routing weight: values and gradients against float64, and the 8-bit outputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.support.rows_in_8_bits import DTYPES, ROUNDING, WITHOUT_CARRY, assert_near
from trainer_core.kernels.swiglu import (
    swiglu,
    swiglu_grad,
    swiglu_grad_plain,
    swiglu_grad_to_8_bits,
    swiglu_grad_to_8_bits_plain,
    swiglu_grad_to_8_bits_triton,
    swiglu_grad_triton,
    swiglu_plain,
    swiglu_to_8_bits,
    swiglu_to_8_bits_plain,
    swiglu_to_8_bits_triton,
    swiglu_triton,
)

Function = Callable[..., Any]

M, E = 5, 4
WIDTHS = [5, 128, 1100]


class Example:
    """Inputs and, in float64 by autograd from PyTorch's own functions, what must come out."""

    def __init__(self, H: int, *, is_weighted: bool, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(H)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.up, self.grad = 3 * normal(M, 2 * H), normal(M, H)
        self.weight = normal(M).float() if is_weighted else None  # of both signs
        self.factor, self.expert = normal(E, 2 * H).float().exp(), torch.tensor([0, 0, 1, 3, 3])
        up = self.up.double().requires_grad_()
        weight = None if self.weight is None else self.weight.double().requires_grad_()
        a, b = up.chunk(2, -1)
        h = functional.silu(a) * b * (1 if weight is None else weight[:, None])
        h.backward(self.grad.double())
        self.h, self.grad_up = h.detach(), up.grad
        self.grad_weight = None if weight is None else weight.grad


def close(found: torch.Tensor | None, wanted: torch.Tensor | None, bound: float = 1e-6) -> bool:
    """Whether the relative L2 error is below ``bound``; None equals None only."""
    if found is None or wanted is None:
        return found is wanted
    return bool((found.double() - wanted).norm() < bound * wanted.norm())


@pytest.mark.each_pair
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("function", [swiglu, swiglu_plain, swiglu_triton])
def test_values_and_gradients(H: int, is_weighted: bool, function: Function) -> None:
    example = Example(H, is_weighted=is_weighted)
    up = example.up.requires_grad_()
    weight = None if example.weight is None else example.weight.requires_grad_()

    h = function(up, weight)
    h.backward(example.grad)

    assert close(h.detach(), example.h)
    assert close(up.grad, example.grad_up)
    assert close(None if weight is None else weight.grad, example.grad_weight, 1e-5)


@pytest.mark.each_pair
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("function", [swiglu_grad, swiglu_grad_plain, swiglu_grad_triton])
def test_gradients_alone(H: int, is_weighted: bool, function: Function) -> None:
    example = Example(H, is_weighted=is_weighted)

    grad_up, grad_weight = function(example.grad, example.up, example.weight)

    assert close(grad_up, example.grad_up)
    assert close(grad_weight, example.grad_weight, 1e-5)


def test_float64_stays_exact() -> None:
    example = Example(37, is_weighted=True, dtype=torch.float64)

    h = swiglu(example.up, example.weight)
    grad_up, grad_weight = swiglu_grad(example.grad, example.up, example.weight)

    assert close(h, example.h, 1e-14)
    assert close(grad_up, example.grad_up, 1e-14)
    assert close(grad_weight, example.grad_weight, 1e-14)


def test_bf16_is_rounded_once() -> None:
    example = Example(128, is_weighted=True, dtype=torch.bfloat16)

    h = swiglu(example.up, example.weight)

    assert h.dtype == torch.bfloat16
    assert close(h, example.h, 0.0025)


@pytest.mark.each_pair
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (swiglu_to_8_bits, ROUNDING),
        (swiglu_to_8_bits_plain, ROUNDING),
        (swiglu_to_8_bits_triton, WITHOUT_CARRY),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_in_8_bits(
    H: int, is_weighted: bool, function: Function, bound: float, dtype: torch.dtype
) -> None:
    example = Example(H, is_weighted=is_weighted)

    value = torch.full((M, H), torch.nan)

    rows8, scale = function(example.up, example.weight, dtype=dtype, value_MH=value)
    alone8, _ = function(example.up, example.weight, dtype=dtype)

    assert rows8.dtype == dtype
    assert_near(rows8, scale, example.h, bound)
    assert close(value, example.h)
    assert torch.equal(alone8.view(torch.uint8), rows8.view(torch.uint8))


@pytest.mark.each_pair
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_routed", [False, True])
@pytest.mark.parametrize(
    "function",
    [swiglu_grad_to_8_bits, swiglu_grad_to_8_bits_plain, swiglu_grad_to_8_bits_triton],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_in_8_bits(
    H: int, is_weighted: bool, is_routed: bool, function: Function, dtype: torch.dtype
) -> None:
    bound = WITHOUT_CARRY if function is swiglu_grad_to_8_bits_triton else ROUNDING
    example = Example(H, is_weighted=is_weighted)
    factor = example.factor if is_routed else example.factor[2]
    expert = example.expert.int() if is_routed else None
    value = torch.full((M, 2 * H), torch.nan)

    rows8, scale, grad_weight = function(
        example.grad, example.up, example.weight, factor, expert, dtype=dtype, value_M2H=value
    )
    alone8, _, _ = function(example.grad, example.up, example.weight, factor, expert, dtype=dtype)

    wanted = example.grad_up * (factor[example.expert] if is_routed else factor)
    assert rows8.dtype == dtype
    assert_near(rows8, scale, wanted, bound)
    assert close(value, example.grad_up)
    assert close(grad_weight, example.grad_weight, 1e-5)
    assert torch.equal(alone8.view(torch.uint8), rows8.view(torch.uint8))


@pytest.mark.parametrize("function", [swiglu_grad_to_8_bits_plain, swiglu_grad_to_8_bits_triton])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_of_zero_gives_zeros(function: Function, dtype: torch.dtype) -> None:
    example = Example(37, is_weighted=True)
    weight = torch.zeros(M)

    rows8, scale, _ = function(example.grad, example.up, weight, example.factor[0], dtype=dtype)

    assert torch.equal(rows8.float() * scale[:, None], torch.zeros(M, 74))
