"""Rows copied to experts and summed back: values, gradients, and 8-bit rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.rows_in_8_bits import DTYPES, ROUNDING, WITHOUT_CARRY, assert_near
from tests.unit.test_kernels_expert_order import choices
from trainer_core.kernels.expert_order import ExpertOrder, expert_order_plain
from trainer_core.kernels.expert_rows import (
    add_combined_rows,
    add_combined_rows_plain,
    add_combined_rows_triton,
    combine_rows,
    combine_rows_plain,
    combine_rows_triton,
    gather_rows,
    gather_rows8,
    gather_rows8_plain,
    gather_rows8_triton,
    gather_rows_plain,
    gather_rows_to_8_bits,
    gather_rows_to_8_bits_plain,
    gather_rows_to_8_bits_triton,
    gather_rows_triton,
)
from trainer_core.kernels.expert_rows_autograd import (
    combine_rows_with_gradient,
    combine_rows_with_gradient_triton,
    gather_rows_with_gradient,
    gather_rows_with_gradient_triton,
)

Function = Callable[..., Any]

N, K, E, B = 21, 2, 4, 3
WIDTHS = [1, 37, 64]


def order() -> ExpertOrder:
    return expert_order_plain(choices(N, K, E), E)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("gather", [gather_rows, gather_rows_plain, gather_rows_triton])
def test_each_sorted_row_is_that_of_its_token(F: int, gather: Function) -> None:
    x, sorted_by = normal(N, F), order()

    rows = gather(x, sorted_by.order, K)

    for row, choice in enumerate(sorted_by.order.tolist()):
        assert torch.equal(rows[row], x[choice // K])


@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("gather", [gather_rows, gather_rows_plain, gather_rows_triton])
def test_each_sorted_row_is_multiplied_by_the_gate_of_its_sample(F: int, gather: Function) -> None:
    x, sorted_by, gate = normal(N, F), order(), normal(B, 3 * F)[:, F : 2 * F]

    rows = gather(x, sorted_by.order, K, gate)

    for row, choice in enumerate(sorted_by.order.tolist()):
        token = choice // K
        assert torch.equal(rows[row], x[token] * gate[token // (N // B)])


@pytest.mark.each_pair
@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize("combine", [combine_rows, combine_rows_plain, combine_rows_triton])
def test_each_token_gets_the_sum_of_its_rows(F: int, has_extra: bool, combine: Function) -> None:
    sorted_MF, position = normal(N * K, F), order().position
    extra = normal(N, F) if has_extra else None

    combined = combine(sorted_MF, position, K, extra)

    for token in range(N):
        first, second = position[K * token : K * token + K].tolist()
        wanted = sorted_MF[first].double() + sorted_MF[second].double()
        if extra is not None:
            wanted += extra[token].double()
        torch.testing.assert_close(combined[token].double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.each_pair
@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize("combine", [combine_rows, combine_rows_plain, combine_rows_triton])
def test_the_gradient_of_the_gate_is_added(F: int, has_extra: bool, combine: Function) -> None:
    sorted_MF, position = normal(N * K, F), order().position
    extra = normal(N, F) if has_extra else None
    logits, gate = normal(N, 2 * E)[:, :E], normal(E, F)

    combined = combine(sorted_MF, position, K, extra, logits, gate)

    wanted = combine_rows_plain(sorted_MF.double(), position, K, extra)
    wanted += logits.double() @ gate.double()
    torch.testing.assert_close(combined.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize(
    "add", [add_combined_rows, add_combined_rows_plain, add_combined_rows_triton]
)
def test_the_gated_sum_is_added_to_the_stream(F: int, has_extra: bool, add: Function) -> None:
    hidden, gate = normal(N, F), normal(B, 3 * F)[:, F : 2 * F]
    sorted_MF, position = normal(N * K, F), order().position
    extra = normal(N, F) if has_extra else None

    added = add(hidden, gate, sorted_MF, position, K, extra)

    update = combine_rows_plain(sorted_MF.double(), position, K, extra)
    wanted = hidden.double() + gate.double().repeat_interleave(N // B, 0) * update
    torch.testing.assert_close(added.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_gated_sum_of_bf16_rows_is_rounded_once() -> None:
    inputs = [normal(rows, 64, dtype=torch.bfloat16) for rows in (N, B, N * K, N)]
    hidden, gate, sorted_MF, extra = inputs

    added = add_combined_rows(hidden, gate, sorted_MF, order().position, K, extra)

    hidden, gate, sorted_MF, extra = (each.double() for each in inputs)
    wanted = add_combined_rows(hidden, gate, sorted_MF, order().position, K, extra)
    assert added.dtype == torch.bfloat16
    assert ((added.double() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-6).all()


def test_sums_of_bf16_rows_are_rounded_once() -> None:
    sorted_MF, extra = normal(N * K, 64, dtype=torch.bfloat16), normal(N, 64, dtype=torch.bfloat16)
    position = order().position

    combined = combine_rows(sorted_MF, position, K, extra)

    wanted = combine_rows_plain(sorted_MF.float(), position, K, extra.float())
    assert torch.equal(combined, wanted.bfloat16())


@pytest.mark.parametrize("gather", [gather_rows_with_gradient, gather_rows_with_gradient_triton])
def test_the_gradient_of_a_copy_is_the_sum(gather: Function) -> None:
    x, grad, sorted_by = normal(N, 37).requires_grad_(), normal(N * K, 37), order()

    rows = gather(x, sorted_by, K)
    rows.backward(grad)

    assert torch.equal(rows, gather_rows_plain(x, sorted_by.order, K))
    torch.testing.assert_close(x.grad, combine_rows_plain(grad, sorted_by.position, K))


@pytest.mark.parametrize("combine", [combine_rows_with_gradient, combine_rows_with_gradient_triton])
def test_the_gradient_of_a_sum_is_a_copy(combine: Function) -> None:
    sorted_MF, grad, sorted_by = normal(N * K, 37).requires_grad_(), normal(N, 37), order()

    sum_NF = combine(sorted_MF, sorted_by, K)
    sum_NF.backward(grad)

    torch.testing.assert_close(sum_NF, combine_rows_plain(sorted_MF, sorted_by.position, K))
    assert torch.equal(sorted_MF.grad, gather_rows_plain(grad, sorted_by.order, K))


def test_both_have_gradients_in_float64() -> None:
    x = normal(N, 5, dtype=torch.float64).requires_grad_()
    sorted_by = order()

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        rows = gather_rows_with_gradient(x, sorted_by, K)
        return combine_rows_with_gradient(rows * rows, sorted_by, K)

    assert torch.autograd.gradcheck(there_and_back, (x,))


def test_the_plain_sums_have_gradients_in_float64() -> None:
    rows, extra, hidden, gate, logits, weight = (
        normal(length, width, dtype=torch.float64).requires_grad_()
        for length, width in ((N * K, 3), (N, 3), (N, 3), (B, 3), (N, E), (E, 3))
    )
    position = order().position

    def both(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, extra, hidden, gate, logits, weight = inputs
        combined = combine_rows(rows, position, K, extra, logits, weight)
        return combined, add_combined_rows(hidden, gate, rows, position, K, extra)

    assert torch.autograd.gradcheck(both, (rows, extra, hidden, gate, logits, weight))


@pytest.mark.each_pair
@pytest.mark.parametrize("F", WIDTHS)
@pytest.mark.parametrize("gather", [gather_rows8, gather_rows8_plain, gather_rows8_triton])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_in_8_bits_are_copied_with_their_scales(
    F: int, gather: Function, dtype: torch.dtype
) -> None:
    rows8, scale = (20 * normal(N, F)).to(dtype), normal(N)
    tokens = order().order // K

    copied8, copied_scale = gather(rows8, scale, order().order, K)

    assert copied8.dtype == dtype
    assert torch.equal(copied8.view(torch.uint8), rows8.view(torch.uint8)[tokens])
    assert torch.equal(copied_scale, scale[tokens])


@pytest.mark.each_pair
@pytest.mark.parametrize(
    ("gather", "rounding"),
    [
        (gather_rows_to_8_bits, ROUNDING),
        (gather_rows_to_8_bits_plain, ROUNDING),
        (gather_rows_to_8_bits_triton, WITHOUT_CARRY),
    ],
)
@pytest.mark.parametrize("F", [37, 256])
@pytest.mark.parametrize("has_gate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_is_copied_with_the_factor_of_its_expert(
    has_gate: bool, F: int, gather: Function, rounding: float, dtype: torch.dtype
) -> None:
    grad, sorted_by, factor = normal(N, F), order(), normal(E, F).exp()
    gate = normal(B, 2 * F)[:, F:] if has_gate else None

    rows8, scale = gather(grad, sorted_by.order, sorted_by.expert, K, factor, gate, dtype=dtype)

    tokens = sorted_by.order // K
    wanted = grad[tokens].double() * factor[sorted_by.expert].double()
    if gate is not None:
        wanted *= gate[tokens // (N // B)].double()
    assert rows8.dtype == dtype
    assert_near(rows8, scale, wanted, rounding)
