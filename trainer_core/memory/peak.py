"""The peak of a step's memory on a CUDA card."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trainer_core.memory.fused_activations import BlockBytes

_CONSTANT_BYTES: Final = 1 << 30
"""Workspaces of cuBLAS and cuDNN, and the first segment of each memory pool."""


@dataclass(frozen=True, slots=True)
class PeakEstimate:
    """Counted bytes at the peak of a step."""

    held: int
    """Before and after each step: weights, adapter, optimizer state."""
    activations: int
    """What the step adds."""

    @property
    def reserved_bytes(self) -> int:
        """Estimate of the reserved memory."""
        return self.held + self.activations + _CONSTANT_BYTES


def activations_at_peak(
    blocks: Sequence[BlockBytes],
    recomputed: frozenset[int],
    outside: int,
    *,
    keeps_transposed: bool = False,
) -> int:
    """The most that is alive during the backward pass.

    While a block's gradient is computed, all of the block is kept, recomputed or not, and of the
    blocks before it what they keep.

    Args:
        blocks: in their order.
        recomputed: numbers of the blocks that are recomputed.
        outside: alive during the whole step.
        keeps_transposed: no transposed weight is made.
    """
    before, peak = outside, 0
    for number, block in enumerate(blocks):
        passing = block.passing + (0 if keeps_transposed else block.transposed)
        peak = max(peak, before + block.kept + passing)
        before += block.input if number in recomputed else block.kept
    return peak
