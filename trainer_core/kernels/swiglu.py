"""SwiGLU with a weight for each row, h = w · silu(a) · b, and its gradients, in one pass a row.

``up`` is [a | b]: the outputs of a feed-forward's first two linears, side by side. In a routed
expert, w is the routing weight of the row; it is multiplied in here because the product that
follows is linear. For an incoming gradient g, with s = sigmoid(a):

    da = g · w · b · (s + a · s · (1 − s))
    db = g · w · a · s
    dw = Σ_H g · a · s · b

Rows in 8 bits are as in ``rows8``. Before the gradient is rounded, it is multiplied by ``factor``:
the row scales of the weight that multiplies it next.

Letters: M rows, H inner width, E experts.
"""

from typing import Any

import torch
from torch.nn import functional

from trainer_core.kernels.rows8 import rows_to_8_bits_plain
from trainer_core.kernels.swiglu_rows import backward_row, forward_row
from trainer_core.kernels.triton_support import chunk_of_row, runs_triton


def swiglu(up: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """h, [M, H], with gradients to both. Keeps only them for the backward pass.

    Args:
        up: [M, 2H].
        weight: [M], fp32; None: 1.
    """
    return swiglu_triton(up, weight) if runs_triton(up) else swiglu_plain(up, weight)


def swiglu_plain(up: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """``swiglu`` in PyTorch."""
    return _wide_swiglu(up, weight).to(up.dtype)


def _wide_swiglu(up: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    a, b = up.to(torch.promote_types(up.dtype, torch.float32)).chunk(2, -1)
    h = functional.silu(a) * b
    return h if weight is None else h * weight[:, None]


def swiglu_triton(up: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """``swiglu`` in one kernel, and another one for the gradient."""
    h: torch.Tensor = _Swiglu.apply(up, weight)  # type: ignore[no-untyped-call]
    return h


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, up: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(up, weight)
        h_MH = up.new_empty(up.shape[0], up.shape[1] // 2)
        _launch_forward(up, weight, h_MH, None, None)
        return h_MH

    @staticmethod
    def backward(ctx: Any, grad_MH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        up, weight = ctx.saved_tensors
        return swiglu_grad_triton(grad_MH, up, weight)


def swiglu_to_8_bits(
    up: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_MH: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """h in 8 bits: rows [M, H] and scales [M]. Without gradients.

    Args:
        up: [M, 2H].
        weight: [M], fp32; None: 1.
        dtype: of the rows.
        value_MH: also receives h, in its own type.
    """
    if runs_triton(up):
        return swiglu_to_8_bits_triton(up, weight, dtype=dtype, value_MH=value_MH)
    return swiglu_to_8_bits_plain(up, weight, dtype=dtype, value_MH=value_MH)


def swiglu_to_8_bits_plain(
    up: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_MH: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``swiglu_to_8_bits`` in PyTorch."""
    h_MH = _wide_swiglu(up, weight)
    if value_MH is not None:
        value_MH.copy_(h_MH)
    return rows_to_8_bits_plain(h_MH, dtype=dtype)


def swiglu_to_8_bits_triton(
    up: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_MH: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``swiglu_to_8_bits`` in one kernel."""
    M, H = up.shape[0], up.shape[1] // 2
    rows8 = up.new_empty(M, H, dtype=dtype)
    scale = up.new_empty(M, dtype=torch.float32)
    _launch_forward(up, weight, value_MH, rows8, scale)
    return rows8, scale


def swiglu_grad(
    grad_MH: torch.Tensor, up: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of ``up``, [M, 2H], and of ``weight``, [M] in at least fp32."""
    if runs_triton(up):
        return swiglu_grad_triton(grad_MH, up, weight)
    return swiglu_grad_plain(grad_MH, up, weight)


def swiglu_grad_plain(
    grad_MH: torch.Tensor, up: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``swiglu_grad`` in PyTorch."""
    grad_up, grad_weight = _wide_swiglu_grad(grad_MH, up, weight)
    return grad_up.to(up.dtype), grad_weight


def _wide_swiglu_grad(
    grad_MH: torch.Tensor, up: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    wide = torch.promote_types(up.dtype, torch.float32)
    a, b = up.to(wide).chunk(2, -1)
    grad = grad_MH.to(wide)
    sigmoid = a.sigmoid()
    silu = a * sigmoid
    grad_weight = None if weight is None else (grad * silu * b).sum(-1)
    if weight is not None:
        grad = grad * weight[:, None]
    grad_a = grad * b * (sigmoid + silu * (1 - sigmoid))
    return torch.cat([grad_a, grad * silu], dim=-1), grad_weight


def swiglu_grad_triton(
    grad_MH: torch.Tensor, up: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``swiglu_grad`` in one kernel."""
    grad_up = torch.empty_like(up, memory_format=torch.contiguous_format)
    return grad_up, _launch_backward(grad_MH, up, weight, value=grad_up)


def swiglu_grad_to_8_bits(
    grad_MH: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor | None,
    factor: torch.Tensor,
    expert: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_M2H: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The gradient of ``up`` times ``factor`` in 8 bits, and the gradient of ``weight``.

    Args:
        grad_MH: the gradient of h.
        up: [M, 2H].
        weight: [M], fp32; None: 1.
        factor: [2H], or [E, 2H] with ``expert``; fp32.
        expert: [M], int32: the row of ``factor`` for each row.
        dtype: of the rows.
        value_M2H: also receives the gradient of ``up``, without the factor, in its own type.

    Returns:
        Rows [M, 2H], scales [M], and the gradient of ``weight``, [M], or None.
    """
    if runs_triton(up):
        return swiglu_grad_to_8_bits_triton(
            grad_MH, up, weight, factor, expert, dtype=dtype, value_M2H=value_M2H
        )
    return swiglu_grad_to_8_bits_plain(
        grad_MH, up, weight, factor, expert, dtype=dtype, value_M2H=value_M2H
    )


def swiglu_grad_to_8_bits_plain(
    grad_MH: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor | None,
    factor: torch.Tensor,
    expert: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_M2H: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``swiglu_grad_to_8_bits`` in PyTorch."""
    grad_up, grad_weight = _wide_swiglu_grad(grad_MH, up, weight)
    if value_M2H is not None:
        value_M2H.copy_(grad_up)
    rows8, scale = rows_to_8_bits_plain(
        grad_up * (factor if expert is None else factor[expert]), dtype=dtype
    )
    return rows8, scale, grad_weight


def swiglu_grad_to_8_bits_triton(
    grad_MH: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor | None,
    factor: torch.Tensor,
    expert: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    value_M2H: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``swiglu_grad_to_8_bits`` in one kernel."""
    rows8 = torch.empty(up.shape, dtype=dtype, device=up.device)
    scale = up.new_empty(len(up), dtype=torch.float32)
    grad_weight = _launch_backward(
        grad_MH,
        up,
        weight,
        value=value_M2H,
        factor=factor,
        expert=expert,
        rows8=rows8,
        scale=scale,
    )
    return rows8, scale, grad_weight


def _launch_forward(
    up: torch.Tensor,
    weight: torch.Tensor | None,
    value: torch.Tensor | None,
    rows8: torch.Tensor | None,
    scale: torch.Tensor | None,
) -> None:
    M, H = up.shape[0], up.shape[1] // 2
    chunk = chunk_of_row(H)
    assert value is None or value.is_contiguous()
    forward_row[(M,)](
        up.contiguous(), weight, value, rows8, scale, H=H, CHUNK=chunk, num_warps=chunk // 128
    )


def _launch_backward(
    grad: torch.Tensor,
    up: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    value: torch.Tensor | None,
    factor: torch.Tensor | None = None,
    expert: torch.Tensor | None = None,
    rows8: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor | None:
    M, H = grad.shape
    chunk = 2 * chunk_of_row(H)  # measured on an H200: 131 us at [8960, 6912], 147 with one
    grad_weight = None if weight is None else torch.empty_like(weight)
    assert value is None or value.is_contiguous()
    backward_row[(M,)](
        grad.contiguous(),
        up.contiguous(),
        weight,
        factor,
        expert,
        value,
        rows8,
        scale,
        grad_weight,
        H=H,
        CHUNK=chunk,
        num_warps=chunk // 128,
        # Two programs of 16 warps then share a multiprocessor: one loads while another computes.
        maxnreg=64,
    )
    return grad_weight
