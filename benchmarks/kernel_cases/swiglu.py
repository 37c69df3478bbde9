"""SwiGLU of routed experts, shared experts and text, in bf16 and to 8 bits."""

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, Quantized, capability_of
from trainer_core.kernels.swiglu import (
    swiglu_grad_plain,
    swiglu_grad_to_8_bits_triton,
    swiglu_plain,
    swiglu_to_8_bits_triton,
    swiglu_triton,
)

E = 4
_E4M3 = torch.float8_e4m3fn


def _weight(draw: Draw, rows: int, *, is_routed: bool) -> torch.Tensor | None:
    return draw(rows, dtype=torch.float32).sigmoid() if is_routed else None


def _name(name: str, *, is_routed: bool) -> str:
    return f"{name}, routed" if is_routed else name


def _both(rows: int, H: int, *, is_routed: bool) -> Case:
    def make(draw: Draw) -> Inputs:
        weight = _weight(draw, rows, is_routed=is_routed)
        if weight is not None:
            weight.requires_grad_()
        return draw(rows, 2 * H, has_gradient=True), weight

    return Case(
        name=_name("swiglu", is_routed=is_routed),
        shape=f"{rows}x{H}",
        make=make,
        kernel=lambda up, weight: [swiglu_triton(up, weight)],
        plain=lambda up, weight: [swiglu_plain(up, weight)],
        forward_bytes=rows * H * 6,
        backward_bytes=rows * H * 10,
    )


def _forward8(
    rows: int,
    H: int,
    *,
    is_routed: bool,
    has_value: bool = False,
    dtype: torch.dtype = _E4M3,
) -> Case:
    def kernel(up: torch.Tensor, weight: torch.Tensor | None) -> list[torch.Tensor | Quantized]:
        value = up.new_empty(rows, H) if has_value else None
        rows8, scale = swiglu_to_8_bits_triton(up, weight, dtype=dtype, value_MH=value)
        return [Quantized(rows8, scale), *([] if value is None else [value])]

    name = f"swiglu to {NAMES[dtype]}" + " and bf16" * has_value
    return Case(
        name=_name(name, is_routed=is_routed),
        shape=f"{rows}x{H}",
        make=lambda draw: (draw(rows, 2 * H), _weight(draw, rows, is_routed=is_routed)),
        kernel=kernel,
        plain=lambda up, weight: [swiglu_plain(up, weight)] * (2 if has_value else 1),
        forward_bytes=rows * H * (7 if has_value else 5),
        capability=capability_of(dtype),
    )


def _backward8(
    rows: int,
    H: int,
    *,
    is_routed: bool,
    has_value: bool = False,
    dtype: torch.dtype = _E4M3,
) -> Case:
    def make(draw: Draw) -> Inputs:
        factor = draw(E, 2 * H, dtype=torch.float32).exp()
        expert = torch.arange(rows, dtype=torch.int32, device=draw.device) * E // rows
        weight = _weight(draw, rows, is_routed=is_routed)
        grad, up = draw(rows, H), draw(rows, 2 * H)
        return (grad, up, weight, *((factor, expert) if is_routed else (factor[0], None)))

    def kernel(
        grad: torch.Tensor,
        up: torch.Tensor,
        weight: torch.Tensor | None,
        factor: torch.Tensor,
        expert: torch.Tensor | None,
    ) -> list[torch.Tensor | Quantized]:
        value = torch.empty_like(up) if has_value else None
        rows8, scale, grad_weight = swiglu_grad_to_8_bits_triton(
            grad, up, weight, factor, expert, dtype=dtype, value_M2H=value
        )
        return [Quantized(rows8, scale), *(x for x in (grad_weight, value) if x is not None)]

    def plain(
        grad: torch.Tensor,
        up: torch.Tensor,
        weight: torch.Tensor | None,
        factor: torch.Tensor,
        expert: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        value, grad_weight = swiglu_grad_plain(grad, up, weight)
        scaled = value * (factor if expert is None else factor[expert])
        wanted = (grad_weight, value if has_value else None)
        return [scaled, *(x for x in wanted if x is not None)]

    name = f"swiglu gradient to {NAMES[dtype]}" + " and bf16" * has_value
    return Case(
        name=_name(name, is_routed=is_routed),
        shape=f"{rows}x{H}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=rows * H * (12 if has_value else 8),
        capability=capability_of(dtype),
    )


CASES = [
    _both(8704, 6912, is_routed=True),
    _both(4352, 3584, is_routed=False),
    _forward8(8704, 6912, is_routed=True),
    _forward8(8960, 6912, is_routed=True),
    _forward8(4352, 3584, is_routed=False),
    _forward8(8704, 6912, is_routed=True, has_value=True),
    _forward8(4352, 3584, is_routed=False, has_value=True),
    _backward8(8704, 6912, is_routed=True),
    _backward8(8960, 6912, is_routed=True),
    _backward8(4352, 3584, is_routed=False),
    _backward8(8704, 6912, is_routed=True, has_value=True),
    _backward8(4352, 3584, is_routed=False, has_value=True),
    _forward8(8704, 6912, is_routed=True, dtype=torch.int8),
    _backward8(8704, 6912, is_routed=True, dtype=torch.int8),
    _backward8(4352, 3584, is_routed=False, dtype=torch.int8),
]
