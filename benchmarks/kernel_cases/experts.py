"""The order of the experts' choices, and rows that go to experts and back."""

import torch

from benchmarks.kernel_cases.case import NAMES, Case, Draw, Inputs, Quantized, capability_of
from trainer_core.kernels.expert_order import (
    ExpertOrder,
    expert_order_plain,
    expert_order_triton,
)
from trainer_core.kernels.expert_rows import (
    add_combined_rows_plain,
    add_combined_rows_triton,
    combine_rows_plain,
    combine_rows_triton,
    gather_rows8_triton,
    gather_rows_plain,
    gather_rows_to_8_bits_triton,
    gather_rows_triton,
)
from trainer_core.kernels.expert_rows_autograd import (
    combine_rows_with_gradient_triton,
    gather_rows_with_gradient_triton,
)

E, K, F = 4, 2, 2560


def _chosen(draw: Draw, tokens: int) -> torch.Tensor:
    return draw(tokens, E, dtype=torch.float32).topk(K, dim=-1).indices


def _order(draw: Draw, tokens: int) -> ExpertOrder:
    return expert_order_plain(_chosen(draw, tokens), E)


def _sorted(order: ExpertOrder) -> list[torch.Tensor]:
    return [each for each in order if each is not None]


def _sort(tokens: int) -> Case:
    return Case(
        name="expert order",
        shape=f"{tokens}x{K}, {E} experts",
        make=lambda draw: (_chosen(draw, tokens), draw(tokens, K)),
        kernel=lambda chosen, weight: _sorted(expert_order_triton(chosen, E, weight)),
        plain=lambda chosen, weight: [
            each.double() for each in _sorted(expert_order_plain(chosen, E, weight))
        ],
        forward_bytes=tokens * K * (8 + 2 + 4 * 4),
        max_error=1e-12,
    )


def _gather(tokens: int) -> Case:
    row_bytes = 2 * F

    def make(draw: Draw) -> Inputs:
        return draw(tokens, F, has_gradient=True), _order(draw, tokens)

    return Case(
        name="gather rows",
        shape=f"{tokens}x{F} to {tokens * K}",
        make=make,
        kernel=lambda x, order: [gather_rows_with_gradient_triton(x, order, K)],
        plain=lambda x, order: [gather_rows_plain(x, order.order, K)],
        forward_bytes=tokens * row_bytes * (1 + K),
        backward_bytes=tokens * row_bytes * (1 + K),
    )


def _gather_gated(tokens: int) -> Case:
    def make(draw: Draw) -> Inputs:
        return draw(tokens, F), _order(draw, tokens).order, draw(1, F)

    return Case(
        name="gather rows, with gate",
        shape=f"{tokens}x{F} to {tokens * K}",
        make=make,
        kernel=lambda x, order, gate: [gather_rows_triton(x, order, K, gate)],
        plain=lambda x, order, gate: [gather_rows_plain(x, order, K, gate)],
        forward_bytes=tokens * 2 * F * (1 + K),
    )


def _combine(tokens: int) -> Case:
    row_bytes = 2 * F

    def make(draw: Draw) -> Inputs:
        return draw(tokens * K, F, has_gradient=True), _order(draw, tokens)

    return Case(
        name="combine rows",
        shape=f"{tokens * K}x{F} to {tokens}",
        make=make,
        kernel=lambda rows, order: [combine_rows_with_gradient_triton(rows, order, K)],
        plain=lambda rows, order: [combine_rows_plain(rows, order.position, K)],
        forward_bytes=tokens * row_bytes * (K + 1),
        backward_bytes=tokens * row_bytes * (1 + K),
    )


def _combine_gradient(tokens: int) -> Case:
    """As the backward pass of the experts ends."""

    def make(draw: Draw) -> Inputs:
        logits, gate = draw(tokens, E, dtype=torch.float32), draw(E, F)
        position = _order(draw, tokens).position
        return draw(tokens * K, F), position, draw(tokens, F), logits, gate

    def kernel(
        rows: torch.Tensor, position: torch.Tensor, *others: torch.Tensor
    ) -> list[torch.Tensor]:
        return [combine_rows_triton(rows, position, K, *others)]

    def plain(
        rows: torch.Tensor, position: torch.Tensor, *others: torch.Tensor
    ) -> list[torch.Tensor]:
        return [combine_rows_plain(rows, position, K, *others)]

    return Case(
        name="combine rows, with the gate's gradient",
        shape=f"{tokens * K}x{F} to {tokens}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=tokens * 2 * F * (K + 2),
    )


def _add_combined(samples: int, tokens: int) -> Case:
    N = samples * tokens

    def make(draw: Draw) -> Inputs:
        gate, position = draw(samples, 6 * F)[:, :F], _order(draw, N).position
        return draw(N, F), gate, draw(N * K, F), position, K, draw(N, F)

    return Case(
        name="add combined rows",
        shape=f"{N * K}x{F} to {samples}x{tokens}",
        make=make,
        kernel=lambda *inputs: [add_combined_rows_triton(*inputs)],
        plain=lambda *inputs: [add_combined_rows_plain(*inputs)],
        forward_bytes=N * 2 * F * (K + 3),
    )


def _gather8(tokens: int) -> Case:
    def make(draw: Draw) -> Inputs:
        rows8 = draw(tokens, F, dtype=torch.float8_e4m3fn)
        return rows8, draw(tokens, dtype=torch.float32).exp(), _order(draw, tokens).order

    return Case(
        name="gather 8-bit rows",
        shape=f"{tokens}x{F} to {tokens * K}",
        make=make,
        kernel=lambda rows8, scale, order: [
            Quantized(*gather_rows8_triton(rows8, scale, order, K))
        ],
        plain=lambda rows8, scale, order: [gather_rows_plain(rows8 * scale[:, None], order, K)],
        forward_bytes=tokens * F * (1 + K),
    )


def _gather_to_8_bits(tokens: int, dtype: torch.dtype) -> Case:
    def make(draw: Draw) -> Inputs:
        factor = draw(E, F, dtype=torch.float32).exp()
        return draw(tokens, F), _order(draw, tokens), factor, draw(1, F)

    def kernel(
        grad: torch.Tensor, order: ExpertOrder, factor: torch.Tensor, gate: torch.Tensor
    ) -> list[Quantized]:
        return [
            Quantized(
                *gather_rows_to_8_bits_triton(
                    grad, order.order, order.expert, K, factor, gate, dtype=dtype
                )
            )
        ]

    def plain(
        grad: torch.Tensor, order: ExpertOrder, factor: torch.Tensor, gate: torch.Tensor
    ) -> list[torch.Tensor]:
        return [gather_rows_plain(grad, order.order, K, gate) * factor[order.expert]]

    return Case(
        name=f"gather rows to {NAMES[dtype]}",
        shape=f"{tokens}x{F} to {tokens * K}",
        make=make,
        kernel=kernel,
        plain=plain,
        forward_bytes=tokens * F * (2 + K),
        capability=capability_of(dtype),
    )


CASES = [
    _sort(4352),
    _sort(4480),
    _sort(19_999),
    _gather(4352),
    _gather_gated(4352),
    _gather8(4352),
    *(_gather_to_8_bits(4352, dtype) for dtype in NAMES),
    _combine(4352),
    _combine_gradient(4352),
    _add_combined(1, 4352),
    _add_combined(4, 1344),
]
