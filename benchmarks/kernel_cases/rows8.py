"""Rows to 8 bits: activations, incoming gradients with the weight's scale and the gate, weights."""

from typing import Any

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, Quantized, capability_of
from trainer_core.kernels.gated_rows import gate_rows_plain
from trainer_core.kernels.rows8 import rows_to_8_bits_triton


def _plain(
    x: torch.Tensor, factor_F: torch.Tensor | None, gate_BF: torch.Tensor | None
) -> list[torch.Tensor]:
    x = x if factor_F is None else x * factor_F
    return [x if gate_BF is None else gate_rows_plain(x, gate_BF)]


def _case(
    rows: int,
    F: int,
    *,
    has_factor: bool = False,
    samples: int = 0,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> Case:
    """With the gates of ``samples`` samples; 0: without a gate."""

    def make(draw: Draw) -> Inputs:
        factor_F: Any = draw(F, dtype=torch.float32).abs() if has_factor else None
        gate_BF: Any = draw(samples, 6 * F)[:, 2 * F : 3 * F] if samples else None
        return draw(rows, F), factor_F, gate_BF

    def kernel(
        x: torch.Tensor, factor_F: torch.Tensor | None, gate_BF: torch.Tensor | None
    ) -> list[Quantized]:
        return [Quantized(*rows_to_8_bits_triton(x, factor_F, gate_BF, dtype=dtype))]

    extras = ", with factor" * has_factor + " and gate" * bool(samples)
    return Case(
        name=f"rows to {NAMES[dtype]}{extras}",
        shape=f"{rows}x{F}",
        make=make,
        kernel=kernel,
        plain=_plain,
        forward_bytes=rows * F * 3,
        capability=capability_of(dtype),
    )


CASES = [
    _case(4480, 2560),
    _case(4352, 2560, has_factor=True, samples=1),
    _case(4 * 1344, 2560, has_factor=True, samples=4),
    _case(4480, 7680, has_factor=True),
    _case(4480, 7168, has_factor=True),
    _case(8960, 13824, has_factor=True),
    _case(71680, 160),
    *(
        _case(rows, F, has_factor=has_factor, samples=samples, dtype=torch.int8)
        for rows, F, has_factor, samples in (
            (4480, 2560, False, 0),
            (4 * 1344, 2560, True, 4),
            (4480, 7680, True, 0),
        )
    ),
]
