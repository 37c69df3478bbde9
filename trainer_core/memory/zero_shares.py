"""The part of weights, gradients and optimizer state that one rank holds under DeepSpeed's ZeRO.

Stage 1 partitions the optimizer state, stage 2 also gradients, stage 3 also weights. Source:
"ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", figure 1.
"""

from dataclasses import dataclass


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

    def _share(self, size_bytes: int, *, from_stage: int) -> int:
        is_partitioned = self.stage is not None and self.stage >= from_stage
        return -(-size_bytes // self.ranks) if is_partitioned else size_bytes
