"""The W1 part of LoKr at factor 16: one linear, one of three in a q/k/v product, feed-forward."""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.lokr_mix import (
    mix_add_plain_,
    mix_add_triton_,
    mix_grad_plain,
    mix_grad_triton,
)

FACTOR = 16


def _views(draw: Draw, rows: int, K: int, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last of ``parts`` linears side by side: columns of the output, and its hidden product."""
    wide = draw(rows, parts * FACTOR * K)
    hidden = draw(rows, FACTOR, parts * K)
    return wide[:, -FACTOR * K :], hidden[..., -K:]


def _shape(rows: int, K: int, parts: int) -> str:
    return f"{rows}x{FACTOR}x{K}" + (f", 1 of {parts}" if parts > 1 else "")


def _add(rows: int, K: int, parts: int = 1) -> Case:
    def make(draw: Draw) -> Inputs:
        return *_views(draw, rows, K, parts), draw(FACTOR, FACTOR, factor=0.1)

    def kernel(out: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor) -> list[torch.Tensor]:
        mix_add_triton_(out, hidden, w1)
        return [out]

    def plain(out: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor) -> list[torch.Tensor]:
        mix_add_plain_(out, hidden, w1)
        return [out]

    return Case(
        name="lokr mix, add",
        shape=_shape(rows, K, parts),
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=rows * FACTOR * K * 6,
    )


def _gradient(rows: int, K: int, parts: int = 1) -> Case:
    def make(draw: Draw) -> Inputs:
        return *_views(draw, rows, K, parts), draw(FACTOR, FACTOR, factor=0.1)

    def kernel(grad: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor) -> list[torch.Tensor]:
        grad_hidden = hidden.new_empty(rows, FACTOR, parts * K)[..., -K:]
        return [grad_hidden, mix_grad_triton(grad, hidden, w1, grad_hidden)]

    def plain(grad: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor) -> list[torch.Tensor]:
        grad_hidden = torch.empty_like(hidden)
        return [grad_hidden, mix_grad_plain(grad, hidden, w1, grad_hidden)]

    return Case(
        name="lokr mix, gradients",
        shape=_shape(rows, K, parts),
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=rows * FACTOR * K * 6,
    )


CASES = [
    _add(4480, 160),
    _add(4480, 160, parts=3),
    _add(4352, 432),
    _add(4352, 224),
    _gradient(4480, 160),
    _gradient(4480, 160, parts=3),
    _gradient(4352, 432),
    _gradient(4352, 224),
]
