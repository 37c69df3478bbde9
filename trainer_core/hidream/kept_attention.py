"""Attention whose result outlives its first forward, so that a recomputed block does not repeat it.

At 1024 px attention takes a fifth of a block's forward, and its result is one tensor as wide as the
residual stream. Nothing else that could be kept saves so much time for so little memory.

Letters: B samples, S queries, R keys, A heads, D width of a head.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

_cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention.default
_cudnn_backward = torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default
_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class _Result(NamedTuple):
    attended_BASD: torch.Tensor
    others: tuple[Any, ...]
    """What else the kernel's gradient reads, first the logarithm of each query's sum."""


class KeptAttention:
    """The attention of one block, from its first forward to its recomputation."""

    def __init__(self) -> None:
        self._result: _Result | None = None

    def can_attend(
        self, query_BSAD: torch.Tensor, key_BRAD: torch.Tensor, value_BRAD: torch.Tensor
    ) -> bool:
        """Whether the kernel takes these heads: on cuda it is cuDNN's."""
        if not query_BSAD.is_cuda:
            return True
        query, key, value = (each.transpose(1, 2) for each in (query_BSAD, key_BRAD, value_BRAD))
        inputs = torch.backends.cuda.SDPAParams(query, key, value, None, 0.0, False, False)
        return torch.backends.cuda.can_use_cudnn_attention(inputs)

    def attend(
        self, query_BSAD: torch.Tensor, key_BRAD: torch.Tensor, value_BRAD: torch.Tensor
    ) -> torch.Tensor:
        """As ``attention.attend`` without scores: [B, S, A · D].

        The first call computes it, and has no gradient. The second one gets the same heads again,
        returns the result of the first one, and has gradients.
        """
        heads = tuple(each.transpose(1, 2) for each in (query_BSAD, key_BRAD, value_BRAD))
        if self._result is None:
            self._result = _computed(*heads)
            attended = self._result.attended_BASD
        else:
            attended = _Again.apply(*heads, self._result)  # type: ignore[no-untyped-call]
            self._result = None
        return attended.transpose(1, 2).flatten(2)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, result: _Result
    ) -> torch.Tensor:
        # The result is an output too: as an attribute it would keep the graph that keeps it.
        ctx.save_for_backward(query, key, value, result.attended_BASD)
        ctx.others = result.others
        return result.attended_BASD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BASD: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, attended = ctx.saved_tensors
        return *_gradients(grad_BASD, query, key, value, _Result(attended, ctx.others)), None


@torch.no_grad()
def _computed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Result:
    if query.is_cuda:
        attended, sums, cum_q, cum_k, max_q, max_k, seed, offset, _ = _cudnn(
            query, key, value, None, True
        )
        return _Result(attended, (sums, seed, offset, None, cum_q, cum_k, max_q, max_k))
    attended, sums = _cpu(query, key, value)
    return _Result(attended, (sums,))


def _gradients(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    result: _Result,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    backward = _cudnn_backward if query.is_cuda else _cpu_backward
    attended, others = result
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = backward(
        grad, query, key, value, attended, *others, 0.0, False
    )
    return found
