"""Products of rows that are sorted by expert, each with its expert's matrix.

Letters: M rows, E experts, K and N widths.
"""

from typing import Final

import torch
from torch.nn import functional

SIDE_MULTIPLE: Final = 8
"""Of sides of the matrices: their rows are multiples of 16 bytes in bf16, which torch's product on
CUDA demands."""


def grouped_mm(
    rows_MK: torch.Tensor, weights_EKN: torch.Tensor, ends_E: torch.Tensor
) -> torch.Tensor:
    """Rows sorted by expert times their expert's matrix, [M, N]."""
    if rows_MK.is_cuda:
        return functional.grouped_mm(rows_MK, weights_EKN, offs=ends_E)
    parts = per_expert(rows_MK, ends_E)
    return torch.cat([part @ each for part, each in zip(parts, weights_EKN, strict=True)])


def per_expert(rows: torch.Tensor, ends_E: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of each expert; the ends are read on the host, so for the CPU only."""
    return torch.tensor_split(rows, ends_E[:-1].long().cpu())
