"""Bytes of an optimizer's state. A new optimizer needs one row of ``STATE_BYTES``."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from trainer_core.config.plan import Identity, OptimizerName
from trainer_core.memory.trained import TrainedTensor
from trainer_core.memory.weights import BF16_BYTES, FP32_BYTES

_BNB_MIN_ELEMENTS: Final = 4096
"""bitsandbytes keeps the state of smaller tensors in fp32."""
_BNB_BLOCK_ELEMENTS: Final = 256
"""bitsandbytes keeps one fp32 maximum for each block."""
_BNB_CODEBOOK_BYTES: Final = 256 * FP32_BYTES
"""bitsandbytes keeps one codebook for all tensors."""

StateBytes = Callable[[Sequence[TrainedTensor]], int]


def optimizer_state_bytes(identity: Identity, tensors: Sequence[TrainedTensor]) -> int:
    """Bytes of the state after the first step, in one process without ZeRO."""
    in_fp32 = STATE_BYTES[identity.optimizer.name](tensors)
    if identity.precision.trained == "fp32":
        return in_fp32
    counts = FP32_BYTES * len(tensors) if identity.optimizer.name == "adamw" else 0
    return (in_fp32 - counts) // FP32_BYTES * BF16_BYTES + counts


def _fp32(*, per_element: int, per_tensor: int = 0) -> StateBytes:
    """A state of ``per_element`` fp32 numbers per parameter and ``per_tensor`` per tensor."""

    def state_bytes(tensors: Sequence[TrainedTensor]) -> int:
        elements = sum(tensor.elements for tensor in tensors)
        return FP32_BYTES * (per_element * elements + per_tensor * len(tensors))

    return state_bytes


def _one_byte_in_blocks(tensors: Sequence[TrainedTensor]) -> int:
    sizes = [tensor.elements for tensor in tensors]
    large = [size for size in sizes if size >= _BNB_MIN_ELEMENTS]
    maxima = sum(-(-size // _BNB_BLOCK_ELEMENTS) for size in large)
    small = sum(size for size in sizes if size < _BNB_MIN_ELEMENTS)
    codebook = _BNB_CODEBOOK_BYTES if large else 0
    return sum(large) + codebook + FP32_BYTES * (maxima + small)


def _prodigy(tensors: Sequence[TrainedTensor]) -> int:
    """Two moments, a gradient sum, and the initial value: one number for a tensor that is zero."""
    elements = sum(tensor.elements for tensor in tensors)
    starts = sum(1 if tensor.starts_at_zero else tensor.elements for tensor in tensors)
    return FP32_BYTES * (3 * elements + starts)


STATE_BYTES: Final[Mapping[OptimizerName, StateBytes]] = MappingProxyType(
    {
        "optimi-lion": _fp32(per_element=1),
        "optimi-adamw": _fp32(per_element=2),  # two moments; one step count for all
        "adamw": _fp32(per_element=2, per_tensor=1),  # two moments; a step count each
        "bnb-lion8bit-paged": _one_byte_in_blocks,
        "prodigy": _prodigy,
    }
)
"""Optimizer → bytes of its state for these trained tensors."""
