"""Products of sorted rows with the matrices of their experts, one tile of the output after another.

One program runs on each multiprocessor for the whole product, and takes every P-th tile, where P is
the number of programs. Its loops over tiles and over K are one loop, so that the first blocks of a
tile arrive while the tile before it is stored. Blocks are read and tiles are stored by the tensor
memory accelerator of Hopper cards.

A tile holds rows of one expert. The last tile of an expert also reads rows of the next one, and
stores none of them.

Letters: M rows, K summed width, N width of the output, E experts.
"""

from typing import Final, NamedTuple

import torch

from trainer_core.kernels.triton_support import (
    TensorDescriptor,
    create_ragged_descriptor,
    jit,
    tl,
    to_ragged_indices,
)


class Tiling(NamedTuple):
    """How a product is cut into tiles, and how a program computes them."""

    M: int
    """Rows of a tile."""
    N: int
    """Columns of a tile."""
    K: int
    """Summed at a time. 128 bytes of a row are best for the memory accelerator."""
    rows_together: int
    """Tiles below each other that are computed before those to their right. Programs that run at
    the same time then find the same rows and matrices in the cache."""
    stores: int
    """1: a tile is stored at once. 2: one half after the other, with half the shared memory."""
    warps: int
    stages: int
    """Blocks of K in shared memory."""
    programs: int
    """On each multiprocessor. With 2, one stores while the other multiplies."""


_PROCESSORS_WITHOUT_CARD: Final = 2


def multiply_tiles(
    out_MN: torch.Tensor,
    rows_MK: torch.Tensor,
    weights: torch.Tensor,
    ends_E: torch.Tensor,
    tiling: Tiling,
    *,
    scale_M: torch.Tensor | None = None,
    scale_EN: torch.Tensor | None = None,
) -> None:
    """out[m, n] = scale[m] · scale[e, n] · Σ_k rows[m, k] · weights[e, n, k], e the expert of m.

    All tensors are contiguous, and the bytes of their rows are a multiple of 16.

    Args:
        out_MN: is written, but for rows from the last end on.
        rows_MK: sorted by expert.
        weights: [E, N, K], in the type of the rows.
        ends_E: int32: the row after the last one of each expert.
        tiling: any, with powers of two.
        scale_M: fp32; None: 1.
        scale_EN: fp32; None: 1.
    """
    (M, K), N, E = rows_MK.shape, out_MN.shape[1], len(ends_E)
    assert weights.shape == (E, N, K)
    assert weights.dtype == rows_MK.dtype
    assert ends_E.dtype == torch.int32
    for tensor in (out_MN, rows_MK, weights):
        assert tensor.is_contiguous()
        assert tensor.shape[-1] * tensor.element_size() % 16 == 0
    if M == 0:
        return
    grouped_tiles[(_processors(rows_MK.device) * tiling.programs,)](
        TensorDescriptor.from_tensor(rows_MK, [tiling.M, tiling.K]),
        TensorDescriptor.from_tensor(weights.view(-1, K), [tiling.N, tiling.K]),
        create_ragged_descriptor(out_MN, [tiling.M, tiling.N // tiling.stores]),
        scale_M,
        scale_EN,
        ends_E,
        N,
        K,
        E=E,
        TILE_M=tiling.M,
        TILE_N=tiling.N,
        TILE_K=tiling.K,
        ROWS_TOGETHER=tiling.rows_together,
        STORES=tiling.stores,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS_WITHOUT_CARD
    return torch.cuda.get_device_properties(device).multi_processor_count


@jit
def grouped_tiles(
    rows: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    scale_M: tl.tensor,
    scale_EN: tl.tensor,
    ends: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    ROWS_TOGETHER: tl.constexpr,
    STORES: tl.constexpr,
) -> None:
    """The formula of ``multiply_tiles``; rows, weights and out are tensor descriptors."""
    blocks = tl.cdiv(K, TILE_K)
    tl.assume(blocks > 0)
    tiles = _count_tiles(ends, N, E, TILE_M, TILE_N)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        expert, start, end, m, n = _place_of(tile, ends, N, E, TILE_M, TILE_N, ROWS_TOGETHER)
        sums = tl.zeros((TILE_M, TILE_N), tl.float32)
        for block in tl.range(0, blocks):
            k = block * TILE_K
            left = rows.load([start + m, k])
            right = tl.trans(weights.load([expert * N + n, k]))
            sums = tl.dot(left, right, sums)
        if scale_M is not None:
            row = start + m + tl.arange(0, TILE_M)
            sums *= tl.load(scale_M + row, row < end, other=0.0)[:, None]
        if scale_EN is not None:
            column = n + tl.arange(0, TILE_N)
            scale = tl.load(scale_EN + expert * N + column, column < N, other=0.0)
            sums *= scale[None, :]
        if STORES == 1:
            _store(out, sums, start, end, m, n)
        else:
            halves = tl.permute(tl.reshape(sums, (TILE_M, 2, TILE_N // 2)), (0, 2, 1))
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
def _count_tiles(
    ends: tl.tensor,
    N: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
) -> tl.tensor:
    """Tiles of all experts."""
    down = 0
    start = 0
    for e in tl.static_range(E):
        end = tl.load(ends + e)
        down += tl.cdiv(end - start, TILE_M)
        start = end
    return down * tl.cdiv(N, TILE_N)


@jit
def _place_of(
    tile: tl.tensor,
    ends: tl.tensor,
    N: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    ROWS_TOGETHER: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The expert of a tile, its first row and the row after its last, and the tile's place in it.

    Tiles are counted expert by expert; within an expert, in bands of ROWS_TOGETHER tiles below each
    other; within a band, column of tiles by column.
    """
    across = tl.cdiv(N, TILE_N)
    expert = 0
    start = 0
    end = 0
    first = 0
    next_start = 0
    next_first = 0
    for e in tl.static_range(E):
        next_end = tl.load(ends + e)
        reached = tile >= next_first
        expert = tl.where(reached, e, expert)
        start = tl.where(reached, next_start, start)
        end = tl.where(reached, next_end, end)
        first = tl.where(reached, next_first, first)
        next_first += tl.cdiv(next_end - next_start, TILE_M) * across
        next_start = next_end
    tile -= first
    band = tile // (ROWS_TOGETHER * across)
    tile -= band * ROWS_TOGETHER * across
    down = tl.minimum(tl.cdiv(end - start, TILE_M) - band * ROWS_TOGETHER, ROWS_TOGETHER)
    m = (band * ROWS_TOGETHER + tile % down) * TILE_M
    return expert, start, end, m, tile // down * TILE_N
