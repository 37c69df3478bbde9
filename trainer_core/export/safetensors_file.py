"""Write a safetensors file of fp32 or bf16 tensors, one after the other. Imports no torch.

The same parameters give the same bytes, by whatever process: the file holds no date and no path,
and its tensors and its metadata are in the order of their names. (The library safetensors writes
metadata in an order that differs from process to process.)
"""

import array
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from trainer_core.export.file_tensors import FileTensor
from trainer_core.weights.entries import ITEM_BYTES, LENGTH_BYTES

FileType = Literal["F32", "BF16"]


class Parameters(Protocol):
    """The trained parameters of a run, in memory or in a checkpoint."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of each parameter, by logical name."""

    def read(self, name: str, scale: float) -> bytes | memoryview:
        """Its values times ``scale``, multiplied in fp64 and rounded to fp32, little-endian.

        Raises KeyError.
        """

    def read_bf16(self, name: str) -> bytes | memoryview:
        """Its values, rounded to the nearest bf16, little-endian. Raises KeyError."""


def read_whole(parameters: Parameters, name: str, dtype: FileType) -> bytes | memoryview:
    """The values of one parameter in the type of a file. Raises KeyError."""
    return parameters.read_bf16(name) if dtype == "BF16" else parameters.read(name, 1.0)


def write_safetensors(
    path: Path,
    layout: Sequence[FileTensor],
    parameters: Parameters,
    metadata: Mapping[str, str],
    constants: Mapping[str, float] | None = None,
    *,
    dtype: FileType = "F32",
) -> None:
    """Write the tensors of the layout, and constants of shape (); memory holds one tensor.

    ``dtype``: BF16 only without scales and constants. Raises KeyError where a parameter is missing,
    and OSError.
    """
    constants = constants or {}
    by_name, of_parameter = {each.name: each for each in layout}, parameters.shapes
    shapes = {each.name: of_parameter[each.parameter] for each in layout}
    shapes |= dict.fromkeys(constants, ())
    names = sorted(shapes)
    with path.open("wb") as file:
        file.write(_header({name: shapes[name] for name in names}, metadata, dtype))
        for name in names:
            if name in constants:
                file.write(array.array("f", [constants[name]]).tobytes())
            elif dtype == "BF16":
                file.write(parameters.read_bf16(by_name[name].parameter))
            else:
                file.write(parameters.read(by_name[name].parameter, by_name[name].scale))


def _header(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], dtype: FileType
) -> bytes:
    """The start of the file, up to the bytes of the first tensor."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    body = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    body = body.ljust(-(-len(body) // LENGTH_BYTES) * LENGTH_BYTES)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body
