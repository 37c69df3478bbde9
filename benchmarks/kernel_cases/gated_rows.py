"""The gradient of a gated update."""

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.gated_rows import gate_rows_plain, gate_rows_triton

F = 2560


def _case(samples: int, rows: int) -> Case:
    def make(draw: Draw) -> Inputs:
        return draw(samples * rows, F), draw(samples, 6 * F)[:, 2 * F : 3 * F]

    def kernel(x: torch.Tensor, gate: torch.Tensor) -> list[torch.Tensor]:
        return [gate_rows_triton(x, gate)]

    def plain(x: torch.Tensor, gate: torch.Tensor) -> list[torch.Tensor]:
        return [gate_rows_plain(x, gate)]

    return Case(
        name="gate rows",
        shape=f"{samples}x{rows}x{F}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=samples * rows * F * 4,
    )


CASES = [_case(1, 4352), _case(4, 1344)]
