"""Make the adapter file of a checkpoint from its state. Imports no torch.

Only small matrices are scaled, the others are copied. The file equals, byte for byte, the one that
training would have written at that step.
"""

import array
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from trainer_core.checkpoint.layout import EMA, PARAMETER, STATE_NAME
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.errors import CheckpointError
from trainer_core.export.origin import Origin, Weights
from trainer_core.export.write_adapter import FLOAT_BYTES, LENGTH_BYTES, write_adapter

_PREFIXES: Final[Mapping[Weights, str]] = {"live": PARAMETER, "ema": EMA}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where the bytes of a parameter are in the state file."""

    shape: tuple[int, ...]
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class _StoredParameters:
    """The ``Parameters`` of a checkpoint."""

    state: BinaryIO
    places: Mapping[str, _Place]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: place.shape for name, place in self.places.items()}

    def read(self, name: str, scale: float) -> bytes:
        place = self.places[name]
        self.state.seek(place.offset_bytes)
        size_bytes = math.prod(place.shape) * FLOAT_BYTES
        body = self.state.read(size_bytes)
        if len(body) != size_bytes:
            raise EOFError(f"{name} is cut off")
        if scale == 1.0:
            return body
        return array.array("f", (number * scale for number in array.array("f", body))).tobytes()


def write_checkpoint_adapter(
    checkpoint: Path, adapter: LokrAdapter | LoraAdapter, origin: Origin, folder: Path
) -> int:
    """Write the adapter of a checkpoint's folder into ``folder``; the number of its parameters.

    Args:
        checkpoint: the folder; its files are not compared with its manifest here.
        adapter: of the run that wrote it.
        origin: its ``weights`` are the ones written, and they have to be in the checkpoint.
        folder: exists already.

    Raises:
        CheckpointError: the state is missing, or not the one of this adapter.
        OSError: ``folder`` cannot be written.
    """
    try:
        with (checkpoint / STATE_NAME).open("rb") as state:
            parameters = _StoredParameters(state, _places(state, _PREFIXES[origin.weights]))
            write_adapter(folder, adapter, parameters, origin)
    except (KeyError, ValueError, TypeError, EOFError, FileNotFoundError) as error:
        message = f"{checkpoint.name}/{STATE_NAME} is not the state of this plan: {error!r}"
        raise CheckpointError(message) from error
    return sum(math.prod(shape) for shape in parameters.shapes.values())


def _places(state: BinaryIO, prefix: str) -> dict[str, _Place]:
    """The parameters below a prefix of a safetensors file."""
    header_bytes = int.from_bytes(state.read(LENGTH_BYTES), "little")
    header: dict[str, Any] = json.loads(state.read(header_bytes))
    found: dict[str, _Place] = {}
    for name, facts in header.items():
        if name.startswith(prefix):
            if facts["dtype"] != "F32":
                raise ValueError(f"{name} is {facts['dtype']}, not F32")
            found[name.removeprefix(prefix)] = _Place(
                shape=tuple(facts["shape"]),
                offset_bytes=LENGTH_BYTES + header_bytes + facts["data_offsets"][0],
            )
    return found
