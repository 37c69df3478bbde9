"""The kernels of ``swiglu``: one program a row, forwards and backwards.

Letters: H inner width.
"""

from trainer_core.kernels.rows8 import larger, largest_magnitude, rounded8, scale8
from trainer_core.kernels.triton_support import jit, tl


@jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    """1 / (1 + exp(−x)), as the square of a reciprocal root: a third of a division's cost."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@jit
def forward_row(
    up: tl.tensor,
    weight: tl.tensor,
    value: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    H: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """h = w · silu(a) · b of one row, to ``value`` and, divided by its scale, to ``rows8``.

    Reads a row of ``up`` once. Either output may be None.
    """
    row = tl.program_id(0).to(tl.int64)
    w = 1.0
    if weight is not None:
        w = tl.load(weight + row)
    kept: tl.tuple = ()
    largest = tl.zeros((CHUNK,), tl.float32)
    for start in tl.static_range(0, H, CHUNK):
        column = start + tl.arange(0, CHUNK)
        a = tl.load(up + row * 2 * H + column, column < H, other=0.0).to(tl.float32)
        b = tl.load(up + row * 2 * H + H + column, column < H, other=0.0).to(tl.float32)
        h = a * _sigmoid(a) * b
        if value is not None:
            tl.store(value + row * H + column, (h * w).to(value.dtype.element_ty), column < H)
        largest = larger(largest, tl.abs(h))
        kept += (h,)
    if rows8 is not None:
        # w is the same for the whole row: it goes into the scale instead of each value.
        row_scale = scale8(largest_magnitude(largest) * tl.abs(w), rows8)
        tl.store(scale + row, row_scale)
        for start in tl.static_range(0, H, CHUNK):
            column = start + tl.arange(0, CHUNK)
            h8 = rounded8(kept[start // CHUNK] * (w / row_scale), rows8)
            tl.store(rows8 + row * H + column, h8, column < H)


@jit
def backward_row(
    grad: tl.tensor,
    up: tl.tensor,
    weight: tl.tensor,
    factor: tl.tensor,
    expert: tl.tensor,
    value: tl.tensor,
    rows8: tl.tensor,
    scale: tl.tensor,
    grad_weight: tl.tensor,
    H: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """The gradients of one row, by the formulas of ``swiglu``.

    da and db go to ``value`` and, times ``factor`` and divided by their scale, to ``rows8``; dw to
    ``grad_weight``. Reads the rows of ``grad`` and ``up`` once, and one row of ``factor``. Each of
    the outputs may be None.
    """
    row = tl.program_id(0).to(tl.int64)
    w = 1.0
    if weight is not None:
        w = tl.load(weight + row)
    factor_row = factor
    if expert is not None:
        factor_row = factor + tl.load(expert + row).to(tl.int64) * 2 * H
    kept_a: tl.tuple = ()
    kept_b: tl.tuple = ()
    largest = tl.zeros((CHUNK,), tl.float32)
    sum_w = tl.zeros((CHUNK,), tl.float32)
    for start in tl.static_range(0, H, CHUNK):
        column = start + tl.arange(0, CHUNK)
        inside = column < H
        # Past the first-level cache, which is left to the factors that all rows share.
        a = tl.load(up + row * 2 * H + column, inside, other=0.0, cache_modifier=".cg")
        b = tl.load(up + row * 2 * H + H + column, inside, other=0.0, cache_modifier=".cg")
        g = tl.load(grad + row * H + column, inside, other=0.0, cache_modifier=".cg")
        a = a.to(tl.float32)
        g = g.to(tl.float32)
        gb = g * b.to(tl.float32)
        sigmoid = _sigmoid(a)
        silu = a * sigmoid
        sum_w += gb * silu
        da = gb * (sigmoid + silu * (1.0 - sigmoid))
        db = g * silu
        if value is not None:
            value_type = value.dtype.element_ty
            tl.store(value + row * 2 * H + column, (da * w).to(value_type), inside)
            tl.store(value + row * 2 * H + H + column, (db * w).to(value_type), inside)
        if rows8 is not None:
            da *= tl.load(factor_row + column, inside, other=0.0)
            db *= tl.load(factor_row + H + column, inside, other=0.0)
            largest = larger(largest, larger(tl.abs(da), tl.abs(db)))
            kept_a += (da,)
            kept_b += (db,)
    if grad_weight is not None:
        tl.store(grad_weight + row, tl.sum(sum_w, 0))
    if rows8 is not None:
        row_scale = scale8(largest_magnitude(largest) * tl.abs(w), rows8)
        tl.store(scale + row, row_scale)
        for start in tl.static_range(0, H, CHUNK):
            column = start + tl.arange(0, CHUNK)
            a8 = rounded8(kept_a[start // CHUNK] * (w / row_scale), rows8)
            b8 = rounded8(kept_b[start // CHUNK] * (w / row_scale), rows8)
            tl.store(rows8 + row * 2 * H + column, a8, column < H)
            tl.store(rows8 + row * 2 * H + H + column, b8, column < H)
