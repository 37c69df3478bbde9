"""Frozen weights as the fused blocks multiply them: whole, or as 8-bit rows.

Letters: M rows of activations, K input width, N output width, E experts.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from trainer_core.kernels.activation import Activation
from trainer_core.kernels.dense_product8 import dense_product8
from trainer_core.kernels.gated_rows import gate_rows
from trainer_core.kernels.grouped_mm import grouped_mm
from trainer_core.kernels.grouped_product import grouped_product, grouped_product8
from trainer_core.kernels.rows8 import rows_to_8_bits
from trainer_core.kernels.transpose8 import transposed_rows8


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """One weight, [N, K], or the weights of E experts, [E, N, K]."""

    whole: torch.Tensor | None = None
    """In the compute type; None: only 8-bit rows are held."""
    rows8: torch.Tensor | None = None
    """e4m3 or int8; weight = scale · rows8."""
    scale: torch.Tensor | None = None
    """[N] or [E, N], fp32."""
    transposed: torch.Tensor | None = None
    """``rows8`` as [K, N] or [E, K, N]; None: made for each use, to save memory."""
    bias: torch.Tensor | None = None
    """[N], in the compute type."""

    @property
    def is_8bit(self) -> bool:
        return self.rows8 is not None

    @property
    def dtype8(self) -> torch.dtype | None:
        """Type of the 8-bit rows, which a product wants its activations in; None: whole."""
        return None if self.rows8 is None else self.rows8.dtype

    @property
    def out_features(self) -> int:
        """N."""
        held = self.whole if self.rows8 is None else self.rows8
        assert held is not None
        return held.shape[-2]

    def turned(self) -> torch.Tensor:
        """The 8-bit rows with their last two dimensions exchanged, contiguous."""
        if self.transposed is not None:
            return self.transposed
        assert self.rows8 is not None
        return transposed_rows8(self.rows8)


def as_rows8(activation: Activation, dtype8: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The 8-bit rows of an activation, [M, K], and their scales, [M]."""
    if activation.rows8 is not None and activation.scale is not None:
        assert activation.rows8.dtype is dtype8
        return activation.rows8, activation.scale
    return rows_to_8_bits(activation.value, dtype=dtype8)


def multiply(weight: Weight, activation: Activation) -> torch.Tensor:
    """activation · weightᵀ + bias, [M, N], without gradients."""
    dtype = activation.value.dtype
    if weight.whole is not None:
        return functional.linear(_rows(activation.value), weight.whole, weight.bias)
    assert weight.rows8 is not None
    assert weight.scale is not None
    rows8, scale_M = as_rows8(activation, weight.rows8.dtype)
    return dense_product8(rows8, scale_M, weight.rows8, weight.scale, dtype, weight.bias)


def multiply_gradient(
    weight: Weight, grad_MN: torch.Tensor, gate_BN: torch.Tensor | None = None
) -> torch.Tensor:
    """gradient · weight, [M, K]: the gradient of ``multiply`` for its activation.

    The scale of each weight row is multiplied into the gradient before that is rounded to 8 bits.
    So the weight itself is rounded once, for both products.

    ``gate_BN``: multiplies the gradient of each sample's rows first; None: 1.
    """
    if weight.whole is not None:
        gated = grad_MN if gate_BN is None else gate_rows(grad_MN, gate_BN)
        return gated @ weight.whole
    assert weight.rows8 is not None
    rows8, scale = rows_to_8_bits(grad_MN, weight.scale, gate_BN, dtype=weight.rows8.dtype)
    return multiply_rows8_gradient(weight, rows8, scale, dtype=grad_MN.dtype)


def multiply_rows8_gradient(
    weight: Weight, rows8_MN: torch.Tensor, scale_M: torch.Tensor, *, dtype: torch.dtype
) -> torch.Tensor:
    """As ``multiply_gradient``, for a gradient that already has the weight's scales and 8 bits."""
    return dense_product8(rows8_MN, scale_M, weight.turned(), None, dtype)


def multiply_grouped(
    weight: Weight,
    rows: torch.Tensor,
    scale_M: torch.Tensor | None,
    ends_E: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Each row times the weight of its expert, [M, N].

    Args:
        weight: of E experts.
        rows: [M, K], sorted by expert, in the compute type or as 8-bit rows.
        scale_M: of the 8-bit rows; None: whole rows.
        ends_E: int32: the row after the last one of each expert.
        dtype: of the result.
    """
    if scale_M is None:
        assert weight.whole is not None
        if weight.whole.shape[1] > weight.whole.shape[2]:
            # On an H200 897 us instead of 1017 for 8704 rows of 2560 to 13824 columns; into fewer
            # columns torch's product is as fast.
            return grouped_product(rows, weight.whole, ends_E)
        return grouped_mm(rows, weight.whole.transpose(-2, -1), ends_E)
    assert weight.rows8 is not None
    return grouped_product8(rows, scale_M, weight.rows8, weight.scale, ends_E, dtype)


def multiply_grouped_gradient(
    weight: Weight,
    grad_MN: torch.Tensor,
    scale_M: torch.Tensor | None,
    ends_E: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The gradient of ``multiply_grouped`` for its rows, [M, K].

    ``grad_MN``: whole, or as 8-bit rows that already have the weight's scales.
    """
    if scale_M is None:
        assert weight.whole is not None
        return grouped_mm(grad_MN, weight.whole, ends_E)
    return grouped_product8(grad_MN, scale_M, weight.turned(), None, ends_E, dtype)


def _rows(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(-1, value.shape[-1])
