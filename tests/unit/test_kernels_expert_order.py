"""The choices of experts, sorted: stable, complete, and the same from both implementations."""

from collections.abc import Callable

import pytest
import torch

from trainer_core.kernels.expert_order import (
    ExpertOrder,
    expert_order,
    expert_order_plain,
    expert_order_triton,
)

Sort = Callable[..., ExpertOrder]
BOTH: list[Sort] = [expert_order_plain, expert_order_triton]


def choices(N: int, K: int, E: int) -> torch.Tensor:
    """K different experts for each token, as a router chooses them."""
    generator = torch.Generator().manual_seed(N)
    return torch.rand(N, E, generator=generator).topk(K).indices


@pytest.mark.parametrize("sort", BOTH)
@pytest.mark.parametrize(("N", "K", "E"), [(1, 1, 1), (5, 2, 4), (300, 2, 4), (257, 3, 16)])
def test_rows_are_sorted_by_expert_then_by_choice(N: int, K: int, E: int, sort: Sort) -> None:
    chosen = choices(N, K, E)
    flat = chosen.flatten().tolist()

    order, position, expert, ends, weight = sort(chosen, E)

    assert weight is None
    wanted = sorted(range(N * K), key=flat.__getitem__)  # Python's sort is stable
    assert order.tolist() == wanted
    assert expert.tolist() == [flat[choice] for choice in wanted]
    assert [wanted[row] for row in position.tolist()] == list(range(N * K))
    assert ends.tolist() == [sum(each <= e for each in flat) for e in range(E)]


@pytest.mark.parametrize("sort", BOTH)
def test_an_expert_may_have_no_rows_or_all(sort: Sort) -> None:
    chosen = torch.full((600, 1), 2)

    order, position, expert, ends, _ = sort(chosen, 4)

    assert order.tolist() == position.tolist() == list(range(600))
    assert expert.unique().tolist() == [2]
    assert ends.tolist() == [0, 0, 600, 600]


@pytest.mark.parametrize("sort", [*BOTH, expert_order])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_all_results_are_int32(dtype: torch.dtype, sort: Sort) -> None:
    *results, _ = sort(choices(9, 2, 4).to(dtype), 4)

    assert {each.dtype for each in results} == {torch.int32}
    assert [each.shape for each in results] == [(18,), (18,), (18,), (4,)]


@pytest.mark.parametrize("sort", [*BOTH, expert_order])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_sorted_as_their_choices(dtype: torch.dtype, sort: Sort) -> None:
    wide = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = wide[:, 1:3]

    sorted_by = sort(choices(300, 2, 4), 4, weight)

    wanted = weight.flatten().tolist()
    assert sorted_by.weight.dtype == torch.float32
    assert sorted_by.weight.tolist() == [wanted[choice] for choice in sorted_by.order.tolist()]


def test_weights_keep_their_gradient_in_float64() -> None:
    weight = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: expert_order(choices(5, 2, 4), 4, x).weight, weight)
