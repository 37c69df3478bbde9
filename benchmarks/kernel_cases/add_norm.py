"""``add_norm`` as the blocks call it: an update, a tail, with and without the 8-bit copy."""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, Quantized, capability_of
from trainer_core.kernels.add_norm import add_norm_plain, add_norm_triton

_F, _EPS = 2560, 1e-6


def _kernel(
    dtype8: torch.dtype | None, *inputs: torch.Tensor
) -> Sequence[torch.Tensor | Quantized]:
    hidden, shift, scale, update, gate, tail = inputs
    found = add_norm_triton(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=_EPS,
        dtype8=dtype8,
    )  # fmt: skip
    value, rows8, row_scale = found.normed
    if rows8 is None or row_scale is None:
        return found.hidden_BSF, value
    return found.hidden_BSF, value, Quantized(rows8, row_scale)


def _plain(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    hidden, shift, scale, update, gate, tail = inputs
    found = add_norm_plain(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=_EPS,
        dtype8=None,
    )  # fmt: skip
    return found.hidden_BSF, found.normed.value


def _plain_8bit(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    hidden, normed = _plain(*inputs)
    return hidden, normed, normed


def _case(
    B: int, S: int, T: int, *, dtype8: torch.dtype | None = None, is_all_trained: bool = False
) -> Case:
    def make(draw: Draw) -> Inputs:
        shift, scale, gate = (
            each.requires_grad_(is_all_trained) for each in draw(B, 12 * _F).chunk(12, dim=1)[3:6]
        )
        hidden, update = (draw(B, S, _F, has_gradient=True) for _ in range(2))
        tail = draw(B, T, _F, has_gradient=is_all_trained)
        return hidden, shift, scale, update, gate, tail

    name = "add_norm" if dtype8 is None else f"add_norm to {NAMES[dtype8]}"
    live, every = 2 * B * S * _F, 2 * B * (S + T) * _F
    return Case(
        name=f"{name}, all trained" if is_all_trained else name,
        shape=f"{B}x({S}+{T})x{_F}",
        make=make,
        kernel=partial(_kernel, dtype8),
        plain=_plain if dtype8 is None else _plain_8bit,
        forward_bytes=2 * live + 2 * every + (0 if dtype8 is None else every // 2),
        backward_bytes=5 * live,
        max_error=0.006,  # the norm reads a sum that was rounded to bf16
        capability=80 if dtype8 is None else capability_of(dtype8),
    )


CASES = [
    _case(1, 4352, 128),
    _case(1, 4352, 128, dtype8=torch.float8_e4m3fn),
    _case(1, 4352, 128, dtype8=torch.int8),
    _case(2, 1283, 127, dtype8=torch.float8_e4m3fn, is_all_trained=True),
]
