"""How products of sorted rows are cut into tiles, and in which order a program takes them.

One program takes every P-th tile of the whole product, where P is the number of programs. A tile
holds rows of one expert. How many rows an expert has is read on the device.

Letters: M rows, K summed width, N width of the output, E experts.
"""

from typing import NamedTuple

from trainer_core.kernels.triton_support import jit, tl


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
    has_accelerator: bool = True
    """Whether blocks are read and tiles stored by the tensor memory accelerator, which cards have
    from capability 9.0 on. Without it a tile is stored at once."""


@jit
def count_tiles(
    ends: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    E: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
) -> tl.tensor:
    """Tiles of all experts."""
    down = 0
    start = 0
    for e in tl.static_range(E):
        end = _end_of(e, ends, M)
        down += tl.cdiv(end - start, TILE_M)
        start = end
    return down * tl.cdiv(N, TILE_N)


@jit
def place_of(
    tile: tl.tensor,
    ends: tl.tensor,
    M: tl.tensor,
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
        next_end = _end_of(e, ends, M)
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


@jit
def _end_of(e: tl.constexpr, ends: tl.tensor, M: tl.tensor) -> tl.tensor:
    """The row after the last one of expert e; without ends, one expert has all rows."""
    return M if ends is None else tl.load(ends + e)


@jit
def scaled(
    sums: tl.tensor,
    scale_M: tl.tensor,
    scale_EN: tl.tensor,
    bias_EN: tl.tensor,
    row: tl.tensor,
    end: tl.tensor,
    column: tl.tensor,
    expert: tl.tensor,
    N: tl.tensor,
) -> tl.tensor:
    """scale[m] · scale[e, n] · sums + bias[e, n] of a tile, in fp32; None: 1, or 0 for the bias."""
    value = sums.to(tl.float32)
    if scale_M is not None:
        value *= tl.load(scale_M + row, row < end, other=0.0)[:, None]
    if scale_EN is not None:
        value *= tl.load(scale_EN + expert * N + column, column < N, other=0.0)[None, :]
    if bias_EN is not None:
        bias = tl.load(bias_EN + expert * N + column, column < N, other=0.0)
        value += bias.to(tl.float32)[None, :]
    return value
