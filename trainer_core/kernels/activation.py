"""An activation, and its copy in 8 bits where a product needs one."""

from typing import NamedTuple

import torch


class Activation(NamedTuple):
    """A value, which may come with its rows in 8 bits.

    The kernel that computes the value also writes the copy. All products that read the value share
    it. The copy has no gradient: a product that reads it passes its gradient to ``value``.
    """

    value: torch.Tensor
    """[..., F], in the type of the computation."""
    rows8: torch.Tensor | None = None
    """[rows, F] in e4m3 or int8: each row of ``value`` divided by its scale, and rounded."""
    scale: torch.Tensor | None = None
    """[rows], fp32: the largest magnitude of each row / 448 for e4m3, / 127 for int8."""
