"""Attention whose result outlives its first forward, so that a recomputed block does not repeat it.

At 1024 px attention takes a fifth of a block's forward, and its result is one tensor as wide as the
residual stream. Nothing else that could be kept saves so much time for so little memory.

Letters: B samples, S queries, R keys, A heads, D width of a head.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten
_PLAIN: Final = (0.0, False)
"""No dropout, and no causal mask."""
_Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class _Result(NamedTuple):
    attended_BASD: torch.Tensor
    gradient: Callable[..., _Tensors]
    """The operation that computes the gradients of query, key and value."""
    others: tuple[Any, ...]
    """Its arguments after the result, first the logarithm of each query's sum."""


_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], _Result]


class KeptAttention:
    """The attention of one block, from its first forward to its recomputation."""

    def __init__(self) -> None:
        self._result: _Result | None = None

    def can_attend(
        self, query_BSAD: torch.Tensor, key_BRAD: torch.Tensor, value_BRAD: torch.Tensor
    ) -> bool:
        """Whether there is a kernel for these heads whose result can be kept."""
        heads = (each.transpose(1, 2) for each in (query_BSAD, key_BRAD, value_BRAD))
        return _kernel_for(*heads) is not None

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
        ctx.gradient, ctx.others = result.gradient, result.others
        return result.attended_BASD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BASD: torch.Tensor) -> tuple[Any, ...]:
        return *ctx.gradient(grad_BASD, *ctx.saved_tensors, *ctx.others), None


@torch.no_grad()
def _computed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Result:
    kernel = _kernel_for(query, key, value)
    assert kernel is not None
    return kernel(query, key, value)


def _kernel_for(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Kernel | None:
    """On CUDA in the order of ``attention.attend``, so that both compute the same bits.

    torch passes over cuDNN's where kernels have to be deterministic.
    """
    if not query.is_cuda:
        return _cpu
    inputs = torch.backends.cuda.SDPAParams(query, key, value, None, 0.0, False, False)
    if torch.backends.cuda.can_use_cudnn_attention(inputs):
        return _cudnn
    # For heads of other widths torch pads the flash kernel's inputs, which is not done here.
    if query.shape[-1] % 8 == 0 and torch.backends.cuda.can_use_flash_attention(inputs):
        return _flash
    return None


def _cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Result:
    attended, sums = _aten._scaled_dot_product_flash_attention_for_cpu.default(query, key, value)
    gradient = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    return _Result(attended, gradient, (sums, *_PLAIN))


def _cudnn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Result:
    attended, sums, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
        _aten._scaled_dot_product_cudnn_attention.default(query, key, value, None, True)
    )
    others = (sums, seed, offset, None, cum_q, cum_k, max_q, max_k, *_PLAIN)
    return _Result(attended, _aten._scaled_dot_product_cudnn_attention_backward.default, others)


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> _Result:
    attended, sums, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
        _aten._scaled_dot_product_flash_attention.default(query, key, value)
    )
    others = (sums, cum_q, cum_k, max_q, max_k, *_PLAIN, seed, offset)
    return _Result(attended, _aten._scaled_dot_product_flash_attention_backward.default, others)
