"""Make the adapter file of a checkpoint from its state. Imports no torch.

Only small matrices are scaled, the others are copied. The tensors equal, bit for bit, those that
training would have written at that step.
"""

import array
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from trainer_core.checkpoint.layout import EMA, PARAMETER, STATE_NAME
from trainer_core.config.plan import LokrAdapter, LoraAdapter, Plan
from trainer_core.errors import CheckpointError
from trainer_core.export.file_tensors import FileTensor
from trainer_core.export.lora_layout import lora_layout, lora_metadata
from trainer_core.export.lycoris_layout import (
    CONFIG_NAME,
    lycoris_alphas,
    lycoris_config,
    lycoris_layout,
)
from trainer_core.export.origin import ADAPTER_NAME, Origin

_LENGTH_BYTES: Final = 8
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where the bytes of a parameter are in the state file."""

    shape: tuple[int, ...]
    offset_bytes: int


def write_checkpoint_adapter(checkpoint: Path, plan: Plan, step: int, folder: Path) -> int:
    """Write the adapter of a checkpoint's folder into ``folder``; the number of its parameters.

    It has the running mean (EMA) where the plan has one, as a result has. Raises CheckpointError
    where the state is missing or not the one of this plan, or training has no adapter.
    """
    identity = plan.identity
    origin = Origin(
        base_model=identity.base.name,
        step=step,
        weights="trained" if identity.ema is None else "ema",
    )
    try:
        with (checkpoint / STATE_NAME).open("rb") as state:
            places = _places(state, PARAMETER if identity.ema is None else EMA)
            match identity.adapter:
                case LokrAdapter() as lokr:
                    _write_lokr(state, places, lokr, origin, folder)
                case LoraAdapter() as lora:
                    layout = lora_layout(lora)
                    header = _header(places, layout, {}, lora_metadata(lora, origin))
                    with (folder / ADAPTER_NAME).open("wb") as file:
                        file.write(header)
                        _copy(state, places, layout, file)
                case None:
                    raise CheckpointError("full-rank training has no adapter")
    except (KeyError, ValueError, TypeError, EOFError, FileNotFoundError) as error:
        message = f"{STATE_NAME} is not the state of this plan: {error!r}"
        raise CheckpointError(message) from error
    return sum(math.prod(place.shape) for place in places.values())


def _write_lokr(
    state: BinaryIO,
    places: Mapping[str, _Place],
    adapter: LokrAdapter,
    origin: Origin,
    folder: Path,
) -> None:
    shapes = {name: place.shape for name, place in places.items()}
    layout = lycoris_layout(adapter, shapes, lambda name: _floats(state, places[name])[0])
    config = json.dumps(lycoris_config(adapter, places.keys()), indent=2)
    modules = len(adapter.modules)
    metadata = {**origin.as_metadata(modules=modules), "lycoris_config": config}
    alphas = lycoris_alphas(adapter)
    with (folder / ADAPTER_NAME).open("wb") as file:
        file.write(_header(places, layout, alphas, metadata))
        _copy(state, places, layout, file)
        array.array("f", alphas.values()).tofile(file)
    (folder / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")


def _places(state: BinaryIO, prefix: str) -> dict[str, _Place]:
    """The parameters below a prefix of a safetensors file."""
    header_bytes = int.from_bytes(state.read(_LENGTH_BYTES), "little")
    header: dict[str, Any] = json.loads(state.read(header_bytes))
    found: dict[str, _Place] = {}
    for name, facts in header.items():
        if name.startswith(prefix):
            if facts["dtype"] != "F32":
                raise ValueError(f"{name} is {facts['dtype']}, not F32")
            found[name.removeprefix(prefix)] = _Place(
                shape=tuple(facts["shape"]),
                offset_bytes=_LENGTH_BYTES + header_bytes + facts["data_offsets"][0],
            )
    return found


def _header(
    places: Mapping[str, _Place],
    layout: list[FileTensor],
    constants: Collection[str],
    metadata: Mapping[str, str],
) -> bytes:
    """The start of a safetensors file: the tensors of the layout, then constants of shape ()."""
    shapes = {each.name: places[each.parameter].shape for each in layout}
    shapes |= dict.fromkeys(constants, ())
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * _FLOAT_BYTES
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    body = json.dumps(header).encode()
    body = body.ljust(-(-len(body) // _LENGTH_BYTES) * _LENGTH_BYTES)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def _copy(
    state: BinaryIO, places: Mapping[str, _Place], layout: list[FileTensor], file: BinaryIO
) -> None:
    for each in layout:
        floats = _floats(state, places[each.parameter])
        if each.scale != 1.0:
            floats = array.array("f", (number * each.scale for number in floats))
        floats.tofile(file)


def _floats(state: BinaryIO, place: _Place) -> "array.array[float]":
    state.seek(place.offset_bytes)
    found = array.array("f")
    found.fromfile(state, math.prod(place.shape))
    return found
