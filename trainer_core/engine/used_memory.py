"""How much memory of its device a run uses."""

from collections.abc import Mapping
from typing import Final

import torch

_STATISTICS: Final[Mapping[str, str]] = {
    "allocated_bytes": "allocated_bytes.all.current",
    "reserved_bytes": "reserved_bytes.all.current",
    "peak_reserved_bytes": "reserved_bytes.all.peak",
}
"""Name → torch's name of it."""


def used_memory(device: torch.device) -> dict[str, int]:
    """``allocated_bytes`` of tensors, ``reserved_bytes`` of the card, and the most since the start.

    Empty on a CPU. torch's allocator counts them on the host: the device is not waited for. A
    graph's memory counts as reserved; CUDA's own is not included.
    """
    if device.type != "cuda":
        return {}
    statistics = torch.cuda.memory_stats(device)
    return {name: statistics[key] for name, key in _STATISTICS.items()}
