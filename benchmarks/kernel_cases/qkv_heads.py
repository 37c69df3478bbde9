"""``qkv_heads`` of a single-stream and of a double-stream block."""

from collections.abc import Sequence

import torch

from benchmarks.kernel_cases.case import Case, Draw, Inputs
from trainer_core.kernels.qkv_heads import Heads, Stream, qkv_heads_plain, qkv_heads_triton

_HEADS, _D, _EPS = 20, 128, 1e-5
_F = _HEADS * _D


def _case(B: int, rows: Sequence[tuple[int, int]]) -> Case:
    """``rows``: rows and live rows of each stream."""
    R, S = sum(each for each, _ in rows), sum(live for _, live in rows)

    def make(draw: Draw) -> Inputs:
        angles = draw(R, _D // 2, dtype=torch.float32)
        parts = [
            part
            for count, _ in rows
            for part in (
                draw(B, count, 3 * _F, has_gradient=True),
                draw(_F),
                draw(_F),
            )
        ]
        return angles.cos(), angles.sin(), *parts

    def streams(parts: Sequence[torch.Tensor]) -> list[Stream]:
        return [Stream(*parts[3 * i : 3 * i + 3], live) for i, (_, live) in enumerate(rows)]

    def kernel(cos: torch.Tensor, sin: torch.Tensor, *parts: torch.Tensor) -> Heads:
        return qkv_heads_triton(streams(parts), cos, sin, _HEADS, _EPS)

    def plain(cos: torch.Tensor, sin: torch.Tensor, *parts: torch.Tensor) -> Heads:
        return qkv_heads_plain(streams(parts), cos, sin, _HEADS, _EPS)

    query, other = 2 * B * S * _F, 2 * B * R * _F
    return Case(
        name="qkv_heads",
        shape=f"{B}x({'+'.join(f'{live}/{count}' for count, live in rows)})x3x{_F}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=2 * (query + 2 * other),
        # Reads the gradients, query and key; writes three gradients.
        backward_bytes=2 * query + 6 * other,
    )


CASES = [
    _case(1, [(4480, 4352)]),
    _case(1, [(4096, 4096), (384, 256)]),
    _case(2, [(1024, 1024), (383, 255)]),
]
