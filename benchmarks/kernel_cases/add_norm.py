"""``add_norm`` as the blocks call it: an update, a tail, with and without the 8-bit copy."""

from collections.abc import Sequence

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs, Quantized
from trainer_core.kernels.add_norm import add_norm_plain, add_norm_triton

_F, _EPS = 2560, 1e-6


def _kernel(*inputs: torch.Tensor) -> Sequence[torch.Tensor | Quantized]:
    hidden, shift, scale, update, gate, tail = inputs
    found = add_norm_triton(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=_EPS,
        with_rows8=False,
    )  # fmt: skip
    return found.hidden_BSF, found.normed.value


def _kernel_8bit(*inputs: torch.Tensor) -> Sequence[torch.Tensor | Quantized]:
    hidden, shift, scale, update, gate, tail = inputs
    found = add_norm_triton(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=_EPS,
        with_rows8=True,
    )  # fmt: skip
    value, rows8, row_scale = found.normed
    assert rows8 is not None
    assert row_scale is not None
    return found.hidden_BSF, value, Quantized(rows8, row_scale)


def _plain(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    hidden, shift, scale, update, gate, tail = inputs
    found = add_norm_plain(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=_EPS,
        with_rows8=False,
    )  # fmt: skip
    return found.hidden_BSF, found.normed.value


def _plain_8bit(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    hidden, normed = _plain(*inputs)
    return hidden, normed, normed


def _case(
    B: int, S: int, T: int, *, with_rows8: bool = False, is_all_trained: bool = False
) -> Case:
    def make(draw: Draw) -> Inputs:
        shift, scale, gate = (
            each.requires_grad_(is_all_trained) for each in draw(B, 12 * _F).chunk(12, dim=1)[3:6]
        )
        hidden, update = (draw(B, S, _F, has_gradient=True) for _ in range(2))
        tail = draw(B, T, _F, has_gradient=is_all_trained)
        return hidden, shift, scale, update, gate, tail

    name = "add_norm to 8 bits" if with_rows8 else "add_norm"
    live, every = 2 * B * S * _F, 2 * B * (S + T) * _F
    return Case(
        name=f"{name}, all trained" if is_all_trained else name,
        shape=f"{B}x({S}+{T})x{_F}",
        make=make,
        kernel=_kernel_8bit if with_rows8 else _kernel,
        plain=_plain_8bit if with_rows8 else _plain,
        forward_bytes=2 * live + 2 * every + (every // 2 if with_rows8 else 0),
        backward_bytes=5 * live,
        max_error=0.006,  # the norm reads a sum that was rounded to bf16
    )


CASES = [
    _case(1, 4352, 128),
    _case(1, 4352, 128, with_rows8=True),
    _case(2, 1283, 127, with_rows8=True, is_all_trained=True),
]
