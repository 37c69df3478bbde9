"""The trained parameters in the state file of a checkpoint as writers take them. No torch."""

import array
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainer_core.checkpoint.layout import EMA, PARAMETER, STATE_NAME
from trainer_core.disk import reading
from trainer_core.export.origin import Weights
from trainer_core.export.safetensors_file import FLOAT_BYTES
from trainer_core.weights.entries import (
    LENGTH_BYTES,
    BadHeaderError,
    Entry,
    header_bytes,
    parse_header,
    quoted,
)

_PREFIXES: Final[Mapping[Weights, str]] = {"live": PARAMETER, "ema": EMA}


class NotAStateError(Exception):
    """The state file is damaged, or its parameters have another form."""


NOT_A_STATE: Final = (NotAStateError, KeyError)
"""Raised where a state file is not the one of the run that it is read for."""


def why_not_a_state(error: Exception) -> str:
    """An error of ``NOT_A_STATE`` in words; a KeyError has the name of what is missing."""
    return f"it lacks {quoted(str(error.args[0]))}" if isinstance(error, KeyError) else str(error)


@dataclass(frozen=True, slots=True)
class ParametersInState:
    """A ``Parameters`` of a checkpoint; reads each tensor when it is asked for."""

    state: BinaryIO
    places: Mapping[str, Entry]
    """By logical name: where it is in the file."""
    on_read: Callable[[int], None] = lambda _: None
    """Called with the size in bytes of each tensor that was read."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self.places.items()}

    @property
    def size_bytes(self) -> int:
        """Of all parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values()) * FLOAT_BYTES

    def read(self, name: str, scale: float) -> bytes:
        """Raises KeyError where it is not there, and NotAStateError where it is cut off."""
        place = self.places[name]
        with reading(Path(self.state.name)):  # and not of the file that is written meanwhile
            self.state.seek(place.offset_bytes)
            body = self.state.read(place.size_bytes)
        if len(body) != place.size_bytes:
            raise NotAStateError(f"{name} is cut off")
        self.on_read(place.size_bytes)
        if scale == 1.0:
            return body
        return array.array("f", (number * scale for number in array.array("f", body))).tobytes()


def parameters_in_state(
    state: BinaryIO, weights: Weights, on_read: Callable[[int], None] = lambda _: None
) -> ParametersInState:
    """The parameters of an opened state file; none where it has not these weights.

    Raises NotAStateError where it is no safetensors file, or one is not fp32.
    """
    state.seek(0)
    file_bytes = os.fstat(state.fileno()).st_size
    try:
        length_bytes = header_bytes(state.read(LENGTH_BYTES), file_bytes, STATE_NAME)
        entries = parse_header(state.read(length_bytes), file_bytes, STATE_NAME).entries
    except BadHeaderError as error:
        raise NotAStateError(str(error)) from error
    prefix = _PREFIXES[weights]
    found = {n.removeprefix(prefix): each for n, each in entries.items() if n.startswith(prefix)}
    for name, entry in found.items():
        if entry.dtype != "F32":
            raise NotAStateError(f"{name} is {entry.dtype}, not F32")
    return ParametersInState(state, found, on_read)
