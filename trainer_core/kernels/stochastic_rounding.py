"""Rounding of fp32 to bf16, up or down at random, so that the mean over the draws is exact.

The random bits are a hash of the element's number and of two keys. No state is read or written: the
same keys round the same way, on CPU and CUDA, however a tensor is cut into pieces. A captured graph
rounds another way when the keys on the device change.
"""

from typing import Final

import torch

from trainer_core.kernels.triton_support import jit, runs_triton, tl

_BLOCK: Final = 1024
# Of MurmurHash3's last step (Appleby, public domain), and 2³² divided by the golden ratio.
_SPREAD: Final = 0x9E3779B1
_FIRST: Final = 0x85EBCA6B
_SECOND: Final = 0xC2B2AE35
_LOW_16: Final = 0xFFFF


def round_to_bf16(
    x: torch.Tensor, out: torch.Tensor, keys: torch.Tensor, is_written: torch.Tensor, start: int = 0
) -> None:
    """Round ``x`` to one of its two neighbours in bf16, and write it to ``out``.

    The share of draws that round up is the distance from the neighbour below, in units of the
    distance between both; so a value of bf16 stays what it is. NaN stays NaN.

    Args:
        x: fp32, contiguous.
        out: bf16, contiguous, of the same shape.
        keys: int32, [2], on the device of ``x``. Other keys, other draws.
        is_written: a boolean, 0-dimensional, on the same device. False: ``out`` stays as it is.
        start: number of the first element, where ``x`` is a piece of a tensor. Numbers are below
            2³¹.
    """
    assert start + x.numel() < 1 << 31
    if runs_triton(x):
        round_to_bf16_triton(x, out, keys, is_written, start)
    else:
        round_to_bf16_plain(x, out, keys, is_written, start)


def round_to_bf16_plain(
    x: torch.Tensor, out: torch.Tensor, keys: torch.Tensor, is_written: torch.Tensor, start: int = 0
) -> None:
    """``round_to_bf16`` in PyTorch."""
    number = torch.arange(start, start + x.numel(), dtype=torch.int32, device=x.device)
    drawn = _hashed(number, keys).bitwise_and_(_LOW_16).view_as(x)
    raised = x.view(torch.int32).add(drawn).bitwise_and_(~_LOW_16).view(torch.float32)
    rounded = torch.where(x.isnan(), x, raised).to(torch.bfloat16)
    torch.where(is_written, rounded, out, out=out)


def _hashed(number: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """32 bits for each number, in place; int32 products wrap around."""
    first, second = keys.unbind()
    number.mul_(_signed(_SPREAD)).bitwise_xor_(first)
    number.bitwise_xor_(_shifted(number, 16)).add_(second).mul_(_signed(_FIRST))
    number.bitwise_xor_(_shifted(number, 13)).mul_(_signed(_SECOND))
    return number.bitwise_xor_(_shifted(number, 16))


def _shifted(number: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted to the right with zeros; PyTorch repeats the sign."""
    return (number >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _signed(number: int) -> int:
    """The int32 with the same bits."""
    return number - (1 << 32) if number >> 31 else number


def round_to_bf16_triton(
    x: torch.Tensor, out: torch.Tensor, keys: torch.Tensor, is_written: torch.Tensor, start: int = 0
) -> None:
    """``round_to_bf16`` in one kernel."""
    programs = -(-x.numel() // _BLOCK)
    _round[(programs,)](x, out, keys, is_written, start, x.numel(), BLOCK=_BLOCK)


@jit
def _round(
    x: tl.tensor,
    out: tl.tensor,
    keys: tl.tensor,
    is_written: tl.tensor,
    start: tl.tensor,
    elements: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (element < elements) & (tl.load(is_written) != 0)
    first = tl.load(keys).to(tl.uint32, bitcast=True)
    second = tl.load(keys + 1).to(tl.uint32, bitcast=True)
    drawn = (element + start).to(tl.uint32) * 0x9E3779B1 ^ first
    drawn = ((drawn ^ (drawn >> 16)) + second) * 0x85EBCA6B
    drawn = (drawn ^ (drawn >> 13)) * 0xC2B2AE35
    drawn = (drawn ^ (drawn >> 16)) & 0xFFFF
    value = tl.load(x + element, inside, other=0.0)
    raised = (value.to(tl.uint32, bitcast=True) + drawn) & 0xFFFF0000
    bits = tl.where(value == value, raised, 0x7FC00000)  # noqa: PLR0124 - only NaN is not itself
    tl.store(out + element, bits.to(tl.float32, bitcast=True).to(tl.bfloat16), inside)
