"""What one rank holds under DeepSpeed's ZeRO.

Stage 1 partitions fp32 weights and optimizer state, stage 2 also gradients, stage 3 also the
model's weights. Source: "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
figure 1; and the buffers of DeepSpeed 0.19.
"""

from dataclasses import dataclass
from typing import Final

from trainer_core.memory.weights import FP32_BYTES

BUCKET_ELEMENTS: Final = 500_000_000
"""Gradients are reduced in buckets of so many: DeepSpeed's own default."""
_LIVE_ELEMENTS: Final = 1_000_000_000
"""Stage 3 keeps so many gathered weights, and updates as many at once: DeepSpeed's own defaults."""


@dataclass(frozen=True, slots=True)
class ZeroShares:
    """Bytes on one of ``ranks`` equal ranks; ``stage`` None: nothing is partitioned."""

    ranks: int
    stage: int | None

    def of_optimizer_state(self, size_bytes: int) -> int:
        return self._share(size_bytes, from_stage=1)

    def of_gradients(self, size_bytes: int) -> int:
        return self._share(size_bytes, from_stage=2)

    def of_weights(self, size_bytes: int) -> int:
        return self._share(size_bytes, from_stage=3)

    def of_masters(self, elements: int, number_bytes: int, *, offloads: bool) -> int:
        """The fp32 weights that are updated, where they are not the model's own.

        Args:
            elements: trained.
            number_bytes: of one of the model's weights.
            offloads: whether they are on the CPU.
        """
        has_own = self.stage in (0, 3) and number_bytes == FP32_BYTES and not offloads
        if self.stage is None or has_own:
            return 0
        return self._share(elements * FP32_BYTES, from_stage=1)

    def of_buffers(self, elements: int, number_bytes: int) -> int:
        """What gradients are reduced in, and under stage 3 the weights that are gathered."""
        if self.stage is None:
            return 0
        gathered = min(elements, _LIVE_ELEMENTS) if self.stage == 3 else 0
        return (min(elements, BUCKET_ELEMENTS) + gathered) * number_bytes

    def of_update(self, elements: int, number_bytes: int) -> int:
        """The gradients of a rank as one tensor, and that tensor in fp32, while it updates."""
        if not self.stage:
            return 0
        updated = self._share(elements, from_stage=1)
        if self.stage == 3:
            updated = min(updated, _LIVE_ELEMENTS)
        return updated * (FP32_BYTES + (number_bytes if number_bytes < FP32_BYTES else 0))

    def of_host(self, elements: int, number_bytes: int) -> int:
        """Gradients in fp32, and a copy of updated weights, beside what is offloaded."""
        return self._share(elements * (FP32_BYTES + number_bytes), from_stage=1)

    def _share(self, size: int, *, from_stage: int) -> int:
        is_partitioned = self.stage is not None and self.stage >= from_stage
        return -(-size // self.ranks) if is_partitioned else size
