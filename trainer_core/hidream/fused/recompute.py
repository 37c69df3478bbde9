"""Gradient checkpointing of a block: keep its inputs, compute it again for its gradients.

torch's own checkpointing reads the state of random generators, which a CUDA graph cannot capture,
and repeats a block's last products, whose results no gradient needs.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

Run = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], bool], tuple[torch.Tensor, ...]]
"""``run(inputs, links, keep_output)`` computes a block. Links are tensors that only gradients go
to. Where ``keep_output`` is False, the streams that it returns need no values."""
Weights = Callable[[], AbstractContextManager[None]]
"""Inside the context, the block's weights are on the device."""


def recomputed(
    run: Run, inputs: Sequence[torch.Tensor], links: Sequence[torch.Tensor], weights: Weights
) -> tuple[torch.Tensor, ...]:
    """``run(inputs, links, True)``; only the inputs are kept for the backward pass.

    ``weights`` is entered for the backward pass.
    """
    outputs: tuple[torch.Tensor, ...] = _Recomputed.apply(  # type: ignore[no-untyped-call]
        run, weights, len(inputs), *inputs, *links
    )
    return outputs


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, weights: Weights, count: int, *tensors: torch.Tensor
    ) -> tuple[Any, ...]:
        ctx.run, ctx.weights, ctx.count = run, weights, count
        ctx.save_for_backward(*tensors)
        outputs = run(tensors[:count], tensors[count:], True)
        ctx.mark_non_differentiable(*(each for each in outputs if not each.is_floating_point()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        tensors = [
            each.detach().requires_grad_(needed)
            for each, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        ]
        with ctx.weights():
            with torch.enable_grad():
                outputs = ctx.run(tensors[: ctx.count], tensors[ctx.count :], False)
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return None, None, None, *(each.grad for each in tensors)
