"""The W1 part of LoKr: against the Kronecker product in float64, on parts of wider tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer_core.kernels import lokr_mix
from trainer_core.kernels.lokr_mix import (
    mix_add_,
    mix_add_plain_,
    mix_add_triton_,
    mix_grad,
    mix_grad_plain,
    mix_grad_triton,
)

Function = Callable[..., Any]

SHAPES = [(1, 1, 1, 1), (7, 16, 16, 160), (5, 3, 20, 24), (4, 40, 17, 13), (3, 128, 65, 32)]
"""N, a, c, K."""


class Example:
    """Columns of a wider output, a view of a wider hidden product, and float64 results."""

    def __init__(self, N: int, a: int, c: int, K: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(N)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        self.wide, self.columns = normal(N, a * K + 9), slice(4, 4 + a * K)
        self.hidden, self.w1 = normal(N, c, K + 5)[..., 2 : 2 + K], normal(a, c)
        self.grad = normal(N, a * K + 3)[:, 1 : 1 + a * K]
        hidden = self.hidden.double().clone().requires_grad_()
        w1 = self.w1.double().clone().requires_grad_()
        # The product with each row's columns of W1 ⊗ 1, written out.
        identity = torch.eye(K, dtype=torch.float64)
        mixed = hidden.flatten(1) @ torch.kron(w1, identity).T
        mixed.backward(self.grad.double())
        self.sum = self.wide[:, self.columns].double() + mixed.detach()
        self.grad_hidden, self.grad_w1 = hidden.grad, w1.grad


def close(found: torch.Tensor, wanted: torch.Tensor, bound: float) -> bool:
    return bool((found.double() - wanted).norm() <= bound * wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("add_", [mix_add_, mix_add_plain_, mix_add_triton_])
def test_the_product_is_added_to_its_columns_only(
    shape: tuple[int, int, int, int], add_: Function
) -> None:
    example = Example(*shape)
    before = example.wide.clone()

    add_(example.wide[:, example.columns], example.hidden, example.w1)

    assert close(example.wide[:, example.columns], example.sum, 1e-6)
    for beside in (slice(0, example.columns.start), slice(example.columns.stop, None)):
        assert torch.equal(example.wide[:, beside], before[:, beside])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradients", [mix_grad_plain, mix_grad_triton])
def test_gradients(shape: tuple[int, int, int, int], gradients: Function) -> None:
    example = Example(*shape)
    N, _, c, K = shape
    around = torch.full((N, c, K + 3), torch.nan)

    grad_w1 = gradients(example.grad, example.hidden, example.w1, around[..., 1 : 1 + K])

    assert close(around[..., 1 : 1 + K], example.grad_hidden, 1e-6)
    assert around[..., :1].isnan().all()
    assert around[..., 1 + K :].isnan().all()
    assert close(grad_w1, example.grad_w1, 1e-6)


class Experts:
    """Rows sorted by expert, and the example of each expert's rows alone."""

    def __init__(self, sizes: tuple[int, ...], a: int, c: int, K: int) -> None:
        self.each = [Example(N, a, c, K) for N in sizes]
        self.columns = self.each[0].columns
        self.wide, self.hidden, self.grad, self.grad_hidden, self.sum = (
            torch.cat([getattr(example, name) for example in self.each])
            for name in ("wide", "hidden", "grad", "grad_hidden", "sum")
        )
        self.w1, self.grad_w1 = (
            torch.stack([getattr(example, name) for example in self.each])
            for name in ("w1", "grad_w1")
        )
        self.ends = torch.tensor(sizes).cumsum(0).int()


EXPERTS = [
    ((3, 1, 5), 16, 16, 160),
    ((0, 7, 0, 2), 8, 8, 24),
    ((5, 0, 0), 3, 20, 24),
    ((2, 3), 40, 17, 13),
    ((2,), 8, 8, 320),
]
"""Rows of each expert, a, c, K."""


@pytest.mark.parametrize(("sizes", "a", "c", "K"), EXPERTS)
@pytest.mark.parametrize("add_", [mix_add_, mix_add_plain_, mix_add_triton_])
def test_each_expert_mixes_its_rows_with_its_own_matrix(
    sizes: tuple[int, ...], a: int, c: int, K: int, add_: Function
) -> None:
    experts = Experts(sizes, a, c, K)
    before = experts.wide.clone()

    add_(experts.wide[:, experts.columns], experts.hidden, experts.w1, experts.ends)

    assert close(experts.wide[:, experts.columns], experts.sum, 1e-6)
    for beside in (slice(0, experts.columns.start), slice(experts.columns.stop, None)):
        assert torch.equal(experts.wide[:, beside], before[:, beside])


@pytest.mark.parametrize(("sizes", "a", "c", "K"), EXPERTS)
@pytest.mark.parametrize("gradients", [mix_grad_plain, mix_grad_triton])
def test_gradients_of_experts(
    sizes: tuple[int, ...], a: int, c: int, K: int, gradients: Function
) -> None:
    experts = Experts(sizes, a, c, K)
    around = torch.full((sum(sizes), c, K + 3), torch.nan)

    grad_w1 = gradients(
        experts.grad, experts.hidden, experts.w1, around[..., 1 : 1 + K], experts.ends
    )

    assert close(around[..., 1 : 1 + K], experts.grad_hidden, 1e-6)
    assert around[..., :1].isnan().all()
    assert around[..., 1 + K :].isnan().all()
    for found, wanted in zip(grad_w1, experts.grad_w1, strict=True):
        assert close(found, wanted, 1e-6)


def test_a_program_may_have_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lokr_mix, "_PROGRAMS", 3)
    example = Example(7, 16, 16, 160)  # 9 blocks of 128 columns
    grad_hidden = torch.full((7, 16, 160), torch.nan)

    grad_w1 = mix_grad_triton(example.grad, example.hidden, example.w1, grad_hidden)

    assert close(grad_hidden, example.grad_hidden, 1e-6)
    assert close(grad_w1, example.grad_w1, 1e-6)


@pytest.mark.parametrize("programs", [1, 3])
def test_a_program_may_have_several_blocks_of_each_expert(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lokr_mix, "_PROGRAMS", programs)
    experts = Experts((3, 0, 7), 16, 16, 160)  # 4 and 9 blocks of 128 columns
    grad_hidden = torch.full((10, 16, 160), torch.nan)

    grad_w1 = mix_grad_triton(experts.grad, experts.hidden, experts.w1, grad_hidden, experts.ends)

    assert close(grad_hidden, experts.grad_hidden, 1e-6)
    assert close(grad_w1, experts.grad_w1, 1e-6)


def test_float64_stays_exact() -> None:
    example = Example(5, 3, 20, 24, torch.float64)

    mix_add_(example.wide[:, example.columns], example.hidden, example.w1)
    grad_hidden, grad_w1 = mix_grad(example.grad, example.hidden, example.w1)

    assert close(example.wide[:, example.columns], example.sum, 1e-14)
    assert close(grad_hidden, example.grad_hidden, 1e-14)
    assert close(grad_w1, example.grad_w1, 1e-14)


def test_bf16_is_summed_in_fp32() -> None:
    example = Example(7, 16, 16, 160, torch.bfloat16)

    mix_add_(example.wide[:, example.columns], example.hidden, example.w1)
    grad_hidden, grad_w1 = mix_grad(example.grad, example.hidden, example.w1)

    assert grad_hidden.dtype == torch.bfloat16
    assert grad_w1.dtype == torch.float32
    assert close(example.wide[:, example.columns], example.sum, 0.0025)
    assert close(grad_hidden, example.grad_hidden, 0.0025)
    assert close(grad_w1, example.grad_w1, 1e-6)


def test_the_sum_has_gradients_in_plain_pytorch() -> None:
    example = Example(5, 3, 20, 24, torch.float64)
    hidden, w1 = example.hidden.clone().requires_grad_(), example.w1.clone().requires_grad_()
    output = example.wide.clone()

    mix_add_(output[:, example.columns], hidden, w1)
    output[:, example.columns].backward(example.grad)

    assert close(hidden.grad, example.grad_hidden, 1e-14)
    assert close(w1.grad, example.grad_w1, 1e-14)
