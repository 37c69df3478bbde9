"""Products of sorted rows with the matrices of their experts, one tile of the output after another.

Programs run for the whole product and take tile after tile. Two kernels do so. In
``accelerated_tiles`` the tensor memory accelerator of Hopper cards reads blocks and stores tiles.
Its loops over tiles and over K are one loop, so that the first blocks of a tile arrive while the
tile before it is stored. ``loaded_tiles`` reads and stores by addresses, which all cards can.

8-bit integers are summed in int32, exactly while K is below 133,000. Hopper cards sum e4m3 in fewer
bits than fp32 has: the error grows with K.

Letters: M rows, K summed width, N width of the output, E experts.
"""

from typing import Final

import torch

from trainer_core.kernels.tile_order import Tiling, count_tiles, place_of, scaled
from trainer_core.kernels.triton_support import (
    TensorDescriptor,
    create_ragged_descriptor,
    jit,
    tl,
    to_ragged_indices,
)

_PROCESSORS_WITHOUT_CARD: Final = 2


def multiply_tiles(
    out_MN: torch.Tensor,
    rows_MK: torch.Tensor,
    weights: torch.Tensor,
    ends_E: torch.Tensor | None,
    tiling: Tiling,
    *,
    scale_M: torch.Tensor | None = None,
    scale_EN: torch.Tensor | None = None,
    bias_EN: torch.Tensor | None = None,
) -> None:
    """out[m, n] = scale[m] · scale[e, n] · Σ_k rows[m, k] · weights[e, n, k] + bias[e, n].

    e is the expert of row m. All tensors are contiguous, and the bytes of their rows are a multiple
    of 16.

    Args:
        out_MN: is written, but for rows from the last end on.
        rows_MK: sorted by expert.
        weights: [E, N, K], in the type of the rows.
        ends_E: int32: the row after the last one of each expert; None: E is 1.
        tiling: any, with powers of two.
        scale_M: fp32; None: 1.
        scale_EN: fp32; None: 1.
        bias_EN: None: 0.
    """
    (M, K), N, E = rows_MK.shape, out_MN.shape[1], len(weights)
    assert weights.shape == (E, N, K)
    assert weights.dtype == rows_MK.dtype
    if ends_E is None:
        assert E == 1
    else:
        assert ends_E.dtype == torch.int32
        assert len(ends_E) == E
    for tensor in (out_MN, rows_MK, weights):
        assert tensor.is_contiguous()
        assert tensor.shape[-1] * tensor.element_size() % 16 == 0
    if M == 0:
        return
    programs = (_processors(rows_MK.device) * tiling.programs,)
    others = (scale_M, scale_EN, bias_EN, ends_E, M, N, K)
    sizes = {
        "E": E,
        "TILE_M": tiling.M,
        "TILE_N": tiling.N,
        "TILE_K": tiling.K,
        "ROWS_TOGETHER": tiling.rows_together,
        "num_warps": tiling.warps,
        "num_stages": tiling.stages,
    }
    if tiling.has_accelerator:
        accelerated_tiles[programs](
            TensorDescriptor.from_tensor(rows_MK, [tiling.M, tiling.K]),
            TensorDescriptor.from_tensor(weights.view(-1, K), [tiling.N, tiling.K]),
            create_ragged_descriptor(out_MN, [tiling.M, tiling.N // tiling.stores]),
            *others,
            STORES=tiling.stores,
            **sizes,
        )
    else:
        loaded_tiles[programs](rows_MK, weights, out_MN, *others, **sizes)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS_WITHOUT_CARD
    return torch.cuda.get_device_properties(device).multi_processor_count


@jit
def accelerated_tiles(
    rows: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    scale_M: tl.tensor,
    scale_EN: tl.tensor,
    bias_EN: tl.tensor,
    ends: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS_TOGETHER: tl.constexpr,
    STORES: tl.constexpr,
) -> None:
    """The formula of ``multiply_tiles``; rows, weights and out are tensor descriptors.

    The last tile of an expert also reads rows of the next one, and stores none of them.
    """
    SUM: tl.constexpr = tl.int32 if rows.dtype == tl.int8 else tl.float32
    blocks = tl.cdiv(K, TILE_K)
    tl.assume(blocks > 0)
    tiles = count_tiles(ends, M, N, E, TILE_M, TILE_N)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        expert, start, end, m, n = place_of(tile, ends, M, N, E, TILE_M, TILE_N, ROWS_TOGETHER)
        sums = tl.zeros((TILE_M, TILE_N), SUM)
        for block in tl.range(0, blocks):
            k = block * TILE_K
            left = rows.load([start + m, k])
            right = tl.trans(weights.load([expert * N + n, k]))
            sums = tl.dot(left, right, sums, out_dtype=SUM)
        row = start + m + tl.arange(0, TILE_M)
        column = n + tl.arange(0, TILE_N)
        value = scaled(sums, scale_M, scale_EN, bias_EN, row, end, column, expert, N)
        if STORES == 1:
            _store(out, value, start, end, m, n)
        else:
            halves = tl.permute(tl.reshape(value, (TILE_M, 2, TILE_N // 2)), (0, 2, 1))
            left_half, right_half = tl.split(halves)
            _store(out, left_half, start, end, m, n)
            _store(out, right_half, start, end, m, n + TILE_N // 2)


@jit
def _store(
    out: tl.tensor,
    value: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
) -> None:
    """Stores rows start + m to end of a tile, and columns from n on. The card drops the others."""
    all_rows, to_end, row = to_ragged_indices(start, end - start, m)
    block = tl.reshape(value.to(out.dtype), (1, 1, value.shape[0], value.shape[1]))
    out.store([all_rows, to_end, row, n], block)


@jit
def loaded_tiles(
    rows: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    scale_M: tl.tensor,
    scale_EN: tl.tensor,
    bias_EN: tl.tensor,
    ends: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS_TOGETHER: tl.constexpr,
) -> None:
    """The formula of ``multiply_tiles``, with plain loads and stores."""
    SUM: tl.constexpr = tl.int32 if rows.dtype.element_ty == tl.int8 else tl.float32
    tiles = count_tiles(ends, M, N, E, TILE_M, TILE_N)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, start, end, m, n = place_of(tile, ends, M, N, E, TILE_M, TILE_N, ROWS_TOGETHER)
        row = start + m + tl.arange(0, TILE_M)
        column = n + tl.arange(0, TILE_N)
        left_row = rows + row.to(tl.int64)[:, None] * K
        right_column = weights + (expert * N + column).to(tl.int64)[None, :] * K
        sums = tl.zeros((TILE_M, TILE_N), SUM)
        for block in tl.range(0, tl.cdiv(K, TILE_K)):
            k = block * TILE_K + tl.arange(0, TILE_K)
            left_inside = (row < end)[:, None] & (k < K)[None, :]
            right_inside = (k < K)[:, None] & (column < N)[None, :]
            left = tl.load(left_row + k[None, :], left_inside, other=0.0)
            right = tl.load(right_column + k[:, None], right_inside, other=0.0)
            sums = tl.dot(left, right, sums, out_dtype=SUM)
        value = scaled(sums, scale_M, scale_EN, bias_EN, row, end, column, expert, N)
        place = out + row.to(tl.int64)[:, None] * N + column[None, :]
        inside = (row < end)[:, None] & (column < N)[None, :]
        tl.store(place, value.to(out.dtype.element_ty), inside)
