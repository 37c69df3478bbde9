"""The tilings that products use. ``python -m benchmarks.product_tuning`` measures candidates."""

from typing import Final

import torch

from trainer_core.kernels.tile_order import Tiling

E4M3: Final = Tiling(M=128, N=256, K=128, rows_together=16, stores=1, warps=8, stages=3, programs=1)
BITS_16: Final = E4M3._replace(K=64)
"""Of 13 and 8 tilings, on an H200, the fastest or within 8 % of it for all products of HiDream's
experts at 1024 and at 512 px."""
INT8: Final = Tiling(M=128, N=128, K=128, rows_together=16, stores=2, warps=4, stages=3, programs=2)
"""Of 17 tilings, on an H200, the fastest or within 4 % of it for all products of HiDream's blocks
at 1024 and at 512 px."""
LOADED8: Final = Tiling(
    M=128,
    N=128,
    K=64,
    rows_together=8,
    stores=1,
    warps=8,
    stages=4,
    programs=1,
    has_accelerator=False,
)
"""Of both types of 8 bits on cards before capability 9.0, on which nobody has measured it. Fits
99 KiB of shared memory, the least among cards of 8.0 to 8.9."""
_ACCELERATOR_FROM: Final = (9, 0)


def tiling_for(rows: torch.Tensor) -> Tiling:
    """How the product of ``rows`` is cut, on their card."""
    if rows.element_size() == 1 and is_before_hopper(rows):
        return LOADED8
    if rows.dtype is torch.int8:
        return INT8
    return E4M3 if rows.element_size() == 1 else BITS_16


def is_before_hopper(rows: torch.Tensor) -> bool:
    """Whether a card before capability 9.0 holds the rows. It has no tensor memory accelerator."""
    if not rows.is_cuda:
        return False
    return torch.cuda.get_device_capability(rows.device) < _ACCELERATOR_FROM
