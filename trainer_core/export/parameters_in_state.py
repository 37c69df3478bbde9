"""The trained parameters in the state files of a checkpoint as writers take them. No torch."""

import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainer_core.checkpoint.layout import EMA, PARAMETER
from trainer_core.checkpoint.state_files import (
    NotAStateError,
    StateFiles,
    StateTensor,
    state_of_files,
)
from trainer_core.disk import reading
from trainer_core.export.origin import Weights
from trainer_core.export.rounding import rounded_to_bf16
from trainer_core.weights.entries import ITEM_BYTES, quoted

_PREFIXES: Final[Mapping[Weights, str]] = {"live": PARAMETER, "ema": EMA}


_TYPES: Final = ("F32", "BF16")
"""Those of trained parameters; an adapter's are fp32."""

NOT_A_STATE: Final = (NotAStateError, KeyError)
"""Raised where a state file is not the one of the run that it is read for."""


def why_not_a_state(error: Exception) -> str:
    """An error of ``NOT_A_STATE`` in words; a KeyError has the name of what is missing."""
    return f"it lacks {quoted(str(error.args[0]))}" if isinstance(error, KeyError) else str(error)


@dataclass(frozen=True, slots=True)
class ParametersInState:
    """A ``Parameters`` of a checkpoint; reads each tensor when it is asked for."""

    state: StateFiles
    files: Mapping[str, BinaryIO]
    """The opened files of the state."""
    prefix: str
    """What the names in the state begin with."""
    tensors: Mapping[str, StateTensor]
    """By logical name."""
    on_read: Callable[[int], None] = lambda _: None
    """Called with the size in bytes of each tensor that was read."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def size_bytes(self) -> int:
        """Of all parameters, as they are stored."""
        return sum(each.count * ITEM_BYTES[each.dtype] for each in self.tensors.values())

    def read(self, name: str, scale: float) -> bytes | memoryview:
        """Raises KeyError where it is missing, and NotAStateError where it is cut off, or bf16."""
        if self.tensors[name].dtype != "F32":
            raise NotAStateError(f"{name} is {self.tensors[name].dtype}, not F32")
        body = self._stored(name)
        if scale == 1.0:
            return body
        numbers = array.array("f")
        numbers.frombytes(body)
        return array.array("f", (number * scale for number in numbers)).tobytes()

    def read_bf16(self, name: str) -> bytes | memoryview:
        """Raises KeyError where it is not there, and NotAStateError where it is cut off."""
        body = self._stored(name)
        return body if self.tensors[name].dtype == "BF16" else rounded_to_bf16(body)

    def _stored(self, name: str) -> memoryview:
        file = self.files[self.tensors[name].parts[0].file]
        with reading(Path(file.name)):  # and not of the file that is written meanwhile
            body = self.state.read_whole(self.prefix + name)
        self.on_read(len(body))
        return memoryview(body)


def parameters_in_state(
    files: Mapping[str, BinaryIO], weights: Weights, on_read: Callable[[int], None] = lambda _: None
) -> ParametersInState:
    """The parameters of opened state files; none where they have not these weights.

    Raises NotAStateError where they are no safetensors files, or one parameter is neither fp32 nor
    bf16.
    """
    state, prefix = state_of_files(files), _PREFIXES[weights]
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.tensors.items()
        if name.startswith(prefix)
    }
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise NotAStateError(f"{name} is {tensor.dtype}, not F32")
    return ParametersInState(state, files, prefix, tensors, on_read)
