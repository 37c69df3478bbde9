"""The W1 part of LoKr: one linear, one of three in a q/k/v product, feed-forward, experts.

Factors are 16, and 8 for experts, each of which has a W1 of its own.
"""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from benchmarks.kernel_cases.grouped_product import AT_512, AT_1024, ends_of
from trainer_core.kernels.lokr_mix import (
    mix_add_plain_,
    mix_add_triton_,
    mix_grad_plain,
    mix_grad_triton,
)

FACTOR = 16
EXPERT_FACTOR = 8
SOME_EMPTY = (0, 129, 0, 1, 170, 0)
"""Rows of each expert."""


def _views(
    draw: Draw, rows: int, K: int, parts: int, factor: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last of ``parts`` linears side by side: columns of the output, and its hidden product."""
    wide = draw(rows, parts * factor * K)
    hidden = draw(rows, factor, parts * K)
    return wide[:, -factor * K :], hidden[..., -K:]


def _inputs(draw: Draw, rows: int, K: int, parts: int, sizes: tuple[int, ...]) -> Inputs:
    factor = EXPERT_FACTOR if sizes else FACTOR
    views = _views(draw, rows, K, parts, factor)
    if not sizes:
        return *views, draw(factor, factor, factor=0.1), None
    w1_Eac = draw(len(sizes), factor, factor, factor=0.1)
    return *views, w1_Eac, ends_of(sizes, draw.device)


def _shape(rows: int, K: int, parts: int, sizes: tuple[int, ...]) -> str:
    factor = EXPERT_FACTOR if sizes else FACTOR
    return (
        f"{rows}x{factor}x{K}"
        + (f", 1 of {parts}" if parts > 1 else "")
        + (f", {len(sizes)} experts" if sizes else "")
    )


def _add(rows: int, K: int, parts: int = 1, sizes: tuple[int, ...] = ()) -> Case:
    """``sizes``: rows of each expert; empty: one W1 for all rows."""

    def kernel(
        out: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor, ends: torch.Tensor | None
    ) -> list[torch.Tensor]:
        mix_add_triton_(out, hidden, w1, ends)
        return [out]

    def plain(
        out: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor, ends: torch.Tensor | None
    ) -> list[torch.Tensor]:
        mix_add_plain_(out, hidden, w1, ends)
        return [out]

    return Case(
        name="lokr mix, add",
        shape=_shape(rows, K, parts, sizes),
        make=lambda draw: _inputs(draw, rows, K, parts, sizes),
        kernel=kernel,
        plain=plain,
        forward_bytes=rows * (EXPERT_FACTOR if sizes else FACTOR) * K * 6,
    )


def _gradient(rows: int, K: int, parts: int = 1, sizes: tuple[int, ...] = ()) -> Case:
    """``sizes``: as for ``_add``."""

    def kernel(
        grad: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor, ends: torch.Tensor | None
    ) -> list[torch.Tensor]:
        grad_hidden = hidden.new_empty(rows, hidden.shape[1], parts * K)[..., -K:]
        return [grad_hidden, mix_grad_triton(grad, hidden, w1, grad_hidden, ends)]

    def plain(
        grad: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor, ends: torch.Tensor | None
    ) -> list[torch.Tensor]:
        grad_hidden = torch.empty_like(hidden)
        return [grad_hidden, mix_grad_plain(grad, hidden, w1, grad_hidden, ends)]

    return Case(
        name="lokr mix, gradients",
        shape=_shape(rows, K, parts, sizes),
        make=lambda draw: _inputs(draw, rows, K, parts, sizes),
        kernel=kernel,
        plain=plain,
        forward_bytes=rows * (EXPERT_FACTOR if sizes else FACTOR) * K * 6,
    )


DENSE = [(4480, 160, 1), (4480, 160, 3), (4352, 432, 1), (4352, 224, 1)]
"""Rows, K, linears side by side."""
EXPERTS = [(864, 2, AT_1024), (320, 1, AT_1024), (864, 2, AT_512), (40, 2, SOME_EMPTY)]
"""K, linears side by side, rows of each expert."""

CASES = [
    make(rows, K, parts, sizes)
    for make in (_add, _gradient)
    for rows, K, parts, sizes in (
        *((*dense, ()) for dense in DENSE),
        *((sum(sizes), K, parts, sizes) for K, parts, sizes in EXPERTS),
    )
]
