"""Rows times the gate of their sample."""

from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.gated_rows import gate_rows, gate_rows_plain, gate_rows_triton

Gate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 37), (3, 4, 64), (2, 3, 100)])
@pytest.mark.parametrize("gate", [gate_rows, gate_rows_plain, gate_rows_triton])
def test_each_row_is_multiplied_by_the_gate_of_its_sample(
    gate: Gate, shape: tuple[int, int, int]
) -> None:
    B, rows, F = shape
    generator = torch.Generator().manual_seed(F)
    x = torch.randn(B * rows, F, generator=generator)
    part = torch.randn(B, 6 * F, generator=generator)[:, 2 * F : 3 * F]

    gated = gate(x, part)

    for row in range(B * rows):
        assert torch.equal(gated[row], x[row] * part[row // rows])


def test_the_product_has_the_type_of_the_rows() -> None:
    x, part = torch.randn(4, 5).bfloat16(), torch.randn(2, 5)

    gated = gate_rows(x, part)

    assert torch.equal(gated, (x.float() * part.repeat_interleave(2, 0)).bfloat16())


def test_the_plain_product_has_gradients() -> None:
    x, part = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (6, 2))

    assert torch.autograd.gradcheck(gate_rows, (x, part))
