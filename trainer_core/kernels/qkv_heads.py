"""From the q/k/v product to what attention reads: RMSNorm, rotary embedding, heads.

Letters: B samples, R rows of a stream (in the outputs: of all streams), S live rows of all streams,
F width, A heads, D width of a head, P rotated pairs of a head (2P ≤ D).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer_core.kernels.triton_support import jit, next_power_of_2, runs_triton, tl, warps_for


class Stream(NamedTuple):
    """The rows of one set of weights: image, text, or both in a single-stream block."""

    qkv_BR3F: torch.Tensor
    """Query, key and value of each row, one after the other."""
    query_weight_F: torch.Tensor
    """Frozen, as ``key_weight_F`` is: on CUDA they have no gradient."""
    key_weight_F: torch.Tensor
    live: int
    """Only the first ``live`` rows need a query; the others are keys and values."""


class Heads(NamedTuple):
    """The outputs of ``qkv_heads``, contiguous."""

    query_BSAD: torch.Tensor
    key_BRAD: torch.Tensor
    value_BRAD: torch.Tensor


def qkv_heads(
    streams: Sequence[Stream],
    cos_RP: torch.Tensor,
    sin_RP: torch.Tensor,
    heads: int,
    eps: float,
) -> Heads:
    """Normalize query and key, rotate them, and join the rows of all streams.

    Query and key: rms_norm over F, times its weight. Then, in the first 2P elements of each head,
    out[2i] = cos[i] · x[2i] - sin[i] · x[2i + 1]
    out[2i + 1] = sin[i] · x[2i] + cos[i] · x[2i + 1]

    The value is copied.

    Source: ``HiDreamAttnProcessor`` and ``apply_rope`` of diffusers 0.42.1.

    Args:
        streams: their rows follow each other in the outputs. Only the last may have rows without a
            query, so the queries are those of the first S rows of the sequence.
        cos_RP, sin_RP: fp32, one row for each row of the sequence.
        heads: A.
        eps: added to the mean square.

    Raises:
        ValueError: a stream before the last has rows without a query, or the tables have another
            number of rows than the sequence.
    """
    if any(each.live != each.qkv_BR3F.shape[1] for each in streams[:-1]):
        raise ValueError("only the last stream may have rows without a query")
    rows = sum(each.qkv_BR3F.shape[1] for each in streams)
    if len(cos_RP) != rows or len(sin_RP) != rows:
        raise ValueError(f"{rows} rows, and tables of {len(cos_RP)} and {len(sin_RP)}")
    compute = qkv_heads_triton if runs_triton(streams[0].qkv_BR3F) else qkv_heads_plain
    return compute(streams, cos_RP, sin_RP, heads, eps)


def qkv_heads_plain(
    streams: Sequence[Stream],
    cos_RP: torch.Tensor,
    sin_RP: torch.Tensor,
    heads: int,
    eps: float,
) -> Heads:
    """``qkv_heads`` in PyTorch. The rotation is computed in at least fp32."""
    queries, keys, values = [], [], []
    for qkv_BR3F, query_weight_F, key_weight_F, live in streams:
        query, key, value = qkv_BR3F.chunk(3, dim=-1)
        width = query.shape[-1:]
        queries.append(functional.rms_norm(query[:, :live], width, query_weight_F, eps))
        keys.append(functional.rms_norm(key, width, key_weight_F, eps))
        values.append(value)
    query, key, value = (_in_heads(each, heads) for each in (queries, keys, values))
    S = query.shape[1]
    return Heads(_rotated(query, cos_RP[:S], sin_RP[:S]), _rotated(key, cos_RP, sin_RP), value)


def _in_heads(parts: list[torch.Tensor], heads: int) -> torch.Tensor:
    joined_BRF = torch.cat(parts, dim=1)
    return joined_BRF.view(*joined_BRF.shape[:2], heads, -1)


def _rotated(x_BRAD: torch.Tensor, cos_RP: torch.Tensor, sin_RP: torch.Tensor) -> torch.Tensor:
    width = 2 * cos_RP.shape[1]
    wide = torch.promote_types(x_BRAD.dtype, torch.float32)
    even, odd = x_BRAD[..., 0:width:2].to(wide), x_BRAD[..., 1:width:2].to(wide)
    cos, sin = cos_RP[:, None], sin_RP[:, None]
    turned = torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1).flatten(-2)
    return torch.cat([turned.type_as(x_BRAD), x_BRAD[..., width:]], dim=-1)


def qkv_heads_triton(
    streams: Sequence[Stream],
    cos_RP: torch.Tensor,
    sin_RP: torch.Tensor,
    heads: int,
    eps: float,
) -> Heads:
    """``qkv_heads`` with one kernel a stream, and another for its backward."""
    assert not any(each.query_weight_F.requires_grad for each in streams)
    assert not any(each.key_weight_F.requires_grad for each in streams)
    lives = [each.live for each in streams]
    tensors = [tensor for each in streams for tensor in each[:3]]
    return Heads(
        *_QkvHeads.apply(cos_RP, sin_RP, heads, eps, lives, *tensors)  # type: ignore[no-untyped-call]
    )


class _QkvHeads(torch.autograd.Function):
    """``tensors``: product, weight of the query, weight of the key, of each stream in turn."""

    @staticmethod
    def forward(
        ctx: Any,
        cos: torch.Tensor,
        sin: torch.Tensor,
        heads: int,
        eps: float,
        lives: list[int],
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        cos, sin, *parts = (each.contiguous() for each in (cos, sin, *tensors))
        B, _, F3 = parts[0].shape
        F = F3 // 3
        S, R = sum(lives), len(cos)
        query, key, value = (parts[0].new_empty(B, rows, heads, F // heads) for rows in (S, R, R))
        block = next_power_of_2(F)
        for first, live, qkv, query_weight, key_weight in _streams(lives, parts):
            rows = qkv.shape[1]
            _forward[(B * rows,)](
                qkv, query_weight, key_weight, cos, sin, query, key, value,
                first, rows, live, S, R, F, eps, cos.shape[1],
                D=F // heads, BLOCK=block, num_warps=warps_for(block),
            )  # fmt: skip
        ctx.save_for_backward(cos, sin, *parts)
        ctx.lives, ctx.eps = lives, eps
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_query: torch.Tensor, d_key: torch.Tensor, d_value: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        cos, sin, *parts = ctx.saved_tensors
        d_query, d_key, d_value = d_query.contiguous(), d_key.contiguous(), d_value.contiguous()
        B, S, heads, D = d_query.shape
        R, F = len(cos), heads * D
        block = next_power_of_2(F)
        gradients: list[torch.Tensor | None] = []
        for first, live, qkv, query_weight, key_weight in _streams(ctx.lives, parts):
            rows = qkv.shape[1]
            d_qkv = torch.empty_like(qkv)
            _backward[(B * rows,)](
                qkv, query_weight, key_weight, cos, sin, d_query, d_key, d_value, d_qkv,
                first, rows, live, S, R, F, ctx.eps, cos.shape[1],
                D=D, BLOCK=block, num_warps=warps_for(block),
            )  # fmt: skip
            gradients += [d_qkv, None, None]
        return None, None, None, None, None, *gradients


def _streams(
    lives: list[int], tensors: Sequence[torch.Tensor]
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """First row in the sequence, live rows, product, weight of the query, weight of the key."""
    first = 0
    for i, live in enumerate(lives):
        qkv, query_weight, key_weight = tensors[3 * i : 3 * i + 3]
        yield first, live, qkv, query_weight, key_weight
        first += qkv.shape[1]


@jit
def _turned(x: tl.tensor, cos: tl.tensor, sin: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Each pair of neighbours, turned by its angle."""
    even, odd = tl.split(tl.reshape(x, [BLOCK // 2, 2]))
    return tl.reshape(tl.join(cos * even - sin * odd, sin * even + cos * odd), [BLOCK])


@jit
def _angles(
    table: tl.tensor,
    row: tl.tensor,
    P: tl.tensor,
    still: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Cosine or sine of each pair in a row of heads; ``still`` in the part that is not turned."""
    pair = tl.arange(0, BLOCK // 2) % (D // 2)
    return tl.load(table + row * P + pair, pair < P, other=still)


@jit
def _forward(
    qkv: tl.tensor,
    query_weight: tl.tensor,
    key_weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    first: tl.tensor,
    rows: tl.tensor,
    live: tl.tensor,
    S: tl.tensor,
    R: tl.tensor,
    F: tl.tensor,
    eps: tl.tensor,
    P: tl.tensor,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row of the stream, which is row ``first`` + its position in the sequence.

    Reads the row of qkv, writes those of key and value, and a live row's query.
    """
    program = tl.program_id(0)
    sample, position = (program // rows).to(tl.int64), program % rows
    row = first + position
    columns = tl.arange(0, BLOCK)
    inside = columns < F
    has_query = inside & (position < live)
    source = qkv + program.to(tl.int64) * 3 * F + columns
    q = tl.load(source, has_query, other=0.0).to(tl.float32)
    k = tl.load(source + F, inside, other=0.0).to(tl.float32)
    v = tl.load(source + 2 * F, inside, other=0.0)
    at = (sample * R + row) * F + columns
    tl.store(value + at, v, inside)
    c = _angles(cos, row, P, 1.0, D, BLOCK)
    s = _angles(sin, row, P, 0.0, D, BLOCK)
    q *= tl.rsqrt(tl.sum(q * q, 0) / F + eps)
    q *= tl.load(query_weight + columns, inside, other=0.0).to(tl.float32)
    at_query = (sample * S + row) * F + columns
    tl.store(query + at_query, _turned(q, c, s, BLOCK).to(query.dtype.element_ty), has_query)
    k *= tl.rsqrt(tl.sum(k * k, 0) / F + eps)
    k *= tl.load(key_weight + columns, inside, other=0.0).to(tl.float32)
    tl.store(key + at, _turned(k, c, s, BLOCK).to(key.dtype.element_ty), inside)


@jit
def _norm_gradient(
    x: tl.tensor, d: tl.tensor, weight: tl.tensor, F: tl.tensor, eps: tl.tensor
) -> tl.tensor:
    """Of x in weight · n with n = x / rms(x): (g - n · mean(g · n)) / rms(x), g = d · weight."""
    r = tl.rsqrt(tl.sum(x * x, 0) / F + eps)
    n = x * r
    g = d * weight
    return (g - n * (tl.sum(g * n, 0) / F)) * r


@jit
def _backward(
    qkv: tl.tensor,
    query_weight: tl.tensor,
    key_weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    d_query: tl.tensor,
    d_key: tl.tensor,
    d_value: tl.tensor,
    d_qkv: tl.tensor,
    first: tl.tensor,
    rows: tl.tensor,
    live: tl.tensor,
    S: tl.tensor,
    R: tl.tensor,
    F: tl.tensor,
    eps: tl.tensor,
    P: tl.tensor,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row, as ``_forward``. Writes d_qkv; 0 where the row has no query."""
    program = tl.program_id(0)
    sample, position = (program // rows).to(tl.int64), program % rows
    row = first + position
    columns = tl.arange(0, BLOCK)
    inside = columns < F
    has_query = inside & (position < live)
    offset = program.to(tl.int64) * 3 * F + columns
    at = (sample * R + row) * F + columns
    at_query = (sample * S + row) * F + columns
    tl.store(d_qkv + offset + 2 * F, tl.load(d_value + at, inside, other=0.0), inside)
    c = _angles(cos, row, P, 1.0, D, BLOCK)
    s = -_angles(sin, row, P, 0.0, D, BLOCK)  # the gradient turns back
    x = tl.load(qkv + offset, has_query, other=0.0).to(tl.float32)
    d = _turned(tl.load(d_query + at_query, has_query, other=0.0).to(tl.float32), c, s, BLOCK)
    weight = tl.load(query_weight + columns, inside, other=0.0).to(tl.float32)
    d = _norm_gradient(x, d, weight, F, eps)
    tl.store(d_qkv + offset, d.to(d_qkv.dtype.element_ty), inside)
    x = tl.load(qkv + offset + F, inside, other=0.0).to(tl.float32)
    d = _turned(tl.load(d_key + at, inside, other=0.0).to(tl.float32), c, s, BLOCK)
    weight = tl.load(key_weight + columns, inside, other=0.0).to(tl.float32)
    d = _norm_gradient(x, d, weight, F, eps)
    tl.store(d_qkv + offset + F, d.to(d_qkv.dtype.element_ty), inside)
