"""Whether rows in 8 bits are the nearest to what they stand for."""

import torch

from trainer_core.kernels.rows8 import LARGEST

DTYPES = list(LARGEST)
ROUNDING = 0.04
"""Bound of the relative L2 error of a row in e4m3: 0.026 for a long row, more for a short one."""
WITHOUT_CARRY = 0.2
"""The same under Triton's interpreter, which loses carries as it rounds to e4m3."""


def assert_near(
    rows8: torch.Tensor, scale: torch.Tensor, wanted: torch.Tensor, rounding: float = ROUNDING
) -> None:
    """Each scale is that of its row's largest value, and each value is rounded.

    ``rounding`` bounds the error of a row in e4m3. A value in int8 is within half a step, that is
    half a scale.
    """
    wanted = wanted.double()
    largest = wanted.abs().amax(1) / LARGEST[rows8.dtype]
    torch.testing.assert_close(scale.double(), largest, rtol=1e-5, atol=0)
    off = rows8.double() * scale.double()[:, None] - wanted
    if rows8.dtype is torch.int8:
        assert bool((off.abs() <= 0.501 * scale[:, None]).all())
    else:
        assert bool((off.norm(dim=1) <= rounding * wanted.norm(dim=1)).all())
