"""``gather_rows`` and ``combine_rows`` with gradients: each is the other's.

Letters: N tokens, K experts chosen for a token, M = N · K rows sorted by expert, F width.
"""

from typing import Any

import torch

from trainer_core.kernels.expert_order import ExpertOrder
from trainer_core.kernels.expert_rows import (
    combine_rows_plain,
    combine_rows_triton,
    gather_rows_plain,
    gather_rows_triton,
)
from trainer_core.kernels.triton_support import runs_triton


def gather_rows_with_gradient(x_NF: torch.Tensor, order: ExpertOrder, choices: int) -> torch.Tensor:
    """``gather_rows``; its gradient is ``combine_rows``."""
    if runs_triton(x_NF):
        return gather_rows_with_gradient_triton(x_NF, order, choices)
    return gather_rows_plain(x_NF, order.order, choices)


def gather_rows_with_gradient_triton(
    x_NF: torch.Tensor, order: ExpertOrder, choices: int
) -> torch.Tensor:
    """``gather_rows_with_gradient`` in one kernel, and another one for the gradient."""
    gathered: torch.Tensor = _GatherRows.apply(x_NF, order, choices)  # type: ignore[no-untyped-call]
    return gathered


def combine_rows_with_gradient(
    sorted_MF: torch.Tensor, order: ExpertOrder, choices: int
) -> torch.Tensor:
    """``combine_rows`` of the sorted rows alone; its gradient is ``gather_rows``."""
    if runs_triton(sorted_MF):
        return combine_rows_with_gradient_triton(sorted_MF, order, choices)
    return combine_rows_plain(sorted_MF, order.position, choices)


def combine_rows_with_gradient_triton(
    sorted_MF: torch.Tensor, order: ExpertOrder, choices: int
) -> torch.Tensor:
    """``combine_rows_with_gradient`` in one kernel, and another one for the gradient."""
    combined: torch.Tensor = _CombineRows.apply(sorted_MF, order, choices)  # type: ignore[no-untyped-call]
    return combined


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NF: torch.Tensor, order: ExpertOrder, choices: int) -> torch.Tensor:
        ctx.save_for_backward(order.position)
        ctx.choices = choices
        return gather_rows_triton(x_NF, order.order, choices)

    @staticmethod
    def backward(ctx: Any, grad_MF: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (position,) = ctx.saved_tensors
        return combine_rows_triton(grad_MF, position, ctx.choices), None, None


class _CombineRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sorted_MF: torch.Tensor, order: ExpertOrder, choices: int
    ) -> torch.Tensor:
        ctx.save_for_backward(order.order)
        ctx.choices = choices
        return combine_rows_triton(sorted_MF, order.position, choices)

    @staticmethod
    def backward(ctx: Any, grad_NF: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return gather_rows_triton(grad_NF, order, ctx.choices), None, None
