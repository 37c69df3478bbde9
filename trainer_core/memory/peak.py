"""The peak of a step's memory on a CUDA card, and its correction by a measured step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from trainer_core.memory.fused_activations import BlockBytes


@dataclass(frozen=True, slots=True)
class PeakEstimate:
    """Counted bytes at the peak of a step."""

    held: int
    """Before and after each step: weights, adapter, optimizer state."""
    activations: int
    """What the step adds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How reserved memory follows from counted bytes: held + constant + factor · activations."""

    factor: float
    """What the allocator loses by rounding and by gaps, and what was not counted."""
    constant_bytes: int
    """Workspaces of cuBLAS and cuDNN, and the first segment of each pool."""

    def reserved_bytes(self, estimate: PeakEstimate) -> int:
        """The peak of reserved memory that is foretold."""
        return estimate.held + self.constant_bytes + round(self.factor * estimate.activations)

    def calibrated(self, estimate: PeakEstimate, measured_bytes: int) -> Self:
        """With the factor at which ``estimate`` gives what a step of its shape has reserved."""
        surplus = measured_bytes - estimate.held - self.constant_bytes
        return replace(self, factor=max(0.0, surplus / estimate.activations))


DEFAULT_CALIBRATION: Final = Calibration(factor=1.0, constant_bytes=1 << 30)
"""Assumed before a step was measured."""


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
