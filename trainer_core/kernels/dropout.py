"""Dropout whose mask is a function of a seed, a layer and the position of an element.

No state is read or written. So a block that is computed again in the backward pass drops the same
elements, and a captured graph drops others when the seed on the device changes.
"""

import hashlib
from typing import Any, Final

import torch

from trainer_core.kernels.triton_support import jit, runs_triton, tl

_BLOCK: Final = 512
"""Draws of a program; each gives four numbers. The mask depends on it."""


def dropout(x: torch.Tensor, probability: float, seed: torch.Tensor, layer: int) -> torch.Tensor:
    """x · mask / (1 − probability); each element of the mask is 0 with ``probability``, else 1.

    The gradient is multiplied by the same. Only the seed is kept for it. CPU and CUDA draw
    different masks.

    Args:
        x: any shape.
        probability: from 0 to below 1.
        seed: 0-dimensional int64, on the device of ``x``.
        layer: number of the place that draws, at least 0; each place draws a mask of its own.
    """
    assert 0 <= probability < 1
    if probability == 0:
        return x
    if runs_triton(x):
        return dropout_triton(x, probability, seed, layer)
    return dropout_plain(x, probability, seed, layer)


def dropout_plain(
    x: torch.Tensor, probability: float, seed: torch.Tensor, layer: int
) -> torch.Tensor:
    """``dropout`` in PyTorch. It reads the seed on the host."""
    # A digest, because PyTorch's generator for the CPU reads 32 bits of its seed only.
    digest = hashlib.blake2b(f"{int(seed)} {layer}".encode(), digest_size=4).digest()
    generator = torch.Generator(x.device).manual_seed(int.from_bytes(digest))
    is_kept = torch.rand(x.shape, generator=generator, device=x.device) >= probability
    return x * (is_kept.to(x.dtype) / (1 - probability))


def dropout_triton(
    x: torch.Tensor, probability: float, seed: torch.Tensor, layer: int
) -> torch.Tensor:
    """``dropout`` in one kernel, which is also its gradient."""
    dropped: torch.Tensor = _Dropout.apply(x, probability, seed, layer)  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, probability: float, seed: torch.Tensor, layer: int
    ) -> torch.Tensor:
        ctx.save_for_backward(seed)
        ctx.probability, ctx.layer = probability, layer
        return _masked(x, probability, seed, layer)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (seed,) = ctx.saved_tensors
        return _masked(grad, ctx.probability, seed, ctx.layer), None, None, None


def _masked(x: torch.Tensor, probability: float, seed: torch.Tensor, layer: int) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    programs = -(-x.numel() // (4 * _BLOCK))
    _drop[(programs,)](x, out, seed, layer, x.numel(), probability, BLOCK=_BLOCK)
    return out


@jit
def _drop(
    x: tl.tensor,
    out: tl.tensor,
    seed: tl.tensor,
    layer: tl.tensor,
    elements: tl.tensor,
    probability: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """out = x / (1 − probability) where a uniform number is at least ``probability``, else 0.

    Numbers are those of Philox (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011),
    with the seed as key and (draw, layer) as counter. Number q of a draw belongs to the element q
    blocks after the draw's first one.
    """
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    draw = program * BLOCK + lane
    low = draw.to(tl.uint32)
    high = (draw >> 32).to(tl.uint32)
    numbers = tl.philox(tl.load(seed), low, high, low * 0 + layer, low * 0)
    for q in tl.static_range(4):
        element = (program * 4 + q) * BLOCK + lane
        inside = element < elements
        is_kept = tl.uint_to_uniform_float(numbers[q]) >= probability
        value = tl.load(x + element, inside, other=0.0).to(tl.float32)
        value = tl.where(is_kept, value / (1.0 - probability), 0.0)
        tl.store(out + element, value.to(out.dtype.element_ty), inside)
