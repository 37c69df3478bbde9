"""A product of a few rows with a weight in 8 bits, which is converted as it is read.

HiDream's modulation is 2.5 billion weights and one row a sample, so only reading them takes time.

Letters: B rows, K input width, N output width.
"""

from typing import Final

import torch
from torch.nn import functional

from trainer_core.kernels.triton_support import jit, runs_triton, tl

MOST_ROWS: Final = 16
"""Above it, a converted weight and a library's product are faster."""
_BLOCK_N: Final = 16
_BLOCK_K: Final = 512


def few_rows_product(
    x_BK: torch.Tensor, rows8_NK: torch.Tensor, scale_N: torch.Tensor
) -> torch.Tensor:
    """x · (scale · rows8)ᵀ, [B, N] in the type of x, without gradients.

    Args:
        x_BK: at most ``MOST_ROWS`` rows.
        rows8_NK: int8 or float8_e4m3fn.
        scale_N: fp32.
    """
    if runs_triton(x_BK):
        return few_rows_product_triton(x_BK, rows8_NK, scale_N)
    return few_rows_product_plain(x_BK, rows8_NK, scale_N)


@torch.no_grad()
def few_rows_product_plain(
    x_BK: torch.Tensor, rows8_NK: torch.Tensor, scale_N: torch.Tensor
) -> torch.Tensor:
    """``few_rows_product`` in PyTorch: sums in at least fp32."""
    wide = torch.promote_types(x_BK.dtype, torch.float32)
    product = functional.linear(x_BK.to(wide), rows8_NK.to(wide))
    return (product * scale_N).to(x_BK.dtype)


@torch.no_grad()
def few_rows_product_triton(
    x_BK: torch.Tensor, rows8_NK: torch.Tensor, scale_N: torch.Tensor
) -> torch.Tensor:
    """``few_rows_product`` in one kernel."""
    x_BK = x_BK.contiguous()
    (B, K), N = x_BK.shape, len(rows8_NK)
    out_BN = x_BK.new_empty(B, N)
    _product[(-(-N // _BLOCK_N), B)](
        x_BK, rows8_NK, scale_N, out_BN, N, K, BLOCK_N=_BLOCK_N, BLOCK_K=_BLOCK_K
    )
    return out_BN


@jit
def _product(
    x: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """out[b, n] = scale[n] · Σ_k x[b, k] · rows8[n, k], in fp32."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.program_id(1)
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (n < N)[:, None] & (k < K)[None, :]
        place = n.to(tl.int64)[:, None] * K + k[None, :]
        weight = tl.load(rows8 + place, inside, other=0.0).to(tl.float32)
        row = tl.load(x + b.to(tl.int64) * K + k, k < K, other=0.0).to(tl.float32)
        total += weight * row[None, :]
    product = tl.sum(total, 1) * tl.load(scale + n, n < N, other=0.0)
    tl.store(out + b.to(tl.int64) * N + n, product.to(out.dtype.element_ty), n < N)
