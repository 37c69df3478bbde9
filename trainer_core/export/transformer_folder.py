"""The folder of a transformer in diffusers' layout, and how one is written. Imports no torch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trainer_core.export.file_tensors import FileTensor
from trainer_core.export.origin import Origin
from trainer_core.export.safetensors_file import FileType, Parameters, write_safetensors
from trainer_core.weights.entries import ITEM_BYTES

TRANSFORMER: Final = "transformer"
NAME: Final = "diffusion_pytorch_model"
FILE_BYTES: Final = 10 << 30
"""The largest size of one file; more weights are split into several, as in diffusers."""


def file_type_of(precision: Mapping[str, Any]) -> FileType:
    """The type that a transformer is exported in: the one that its run computed with.

    ``precision``: of the plan's identity, as JSON; an older one does not say how weights are held.
    """
    is_fp32 = precision.get("compute") == "fp32" and precision.get("trained", "fp32") == "fp32"
    return "F32" if is_fp32 else "BF16"


def write_full_rank(
    folder: Path,
    config: Mapping[str, Any],
    parameters: Parameters,
    origin: Origin,
    dtype: FileType,
) -> None:
    """Create ``folder`` with config.json and weights that `from_pretrained` loads.

    The same parameters give the same bytes. Memory holds one tensor; each is read once, by
    ``read_whole``, in the order of their names.

    Args:
        folder: must not exist yet.
        config: of the transformer, as diffusers writes it.
        parameters: all weights of the transformer.
        origin: the metadata of each file.
        dtype: of the weights in the files.

    Raises ValueError if there are no parameters, and OSError.
    """
    folder.mkdir(parents=True)
    shapes = parameters.shapes
    parts = list(_split({name: shapes[name] for name in sorted(shapes)}, ITEM_BYTES[dtype]))
    if not parts:
        raise ValueError("a transformer without parameters")
    write_config(folder, config)
    files = file_names(len(parts))
    for file, names in zip(files, parts, strict=True):
        layout = [FileTensor(name=name, parameter=name) for name in names]
        write_safetensors(folder / file, layout, parameters, origin.as_metadata(), dtype=dtype)
    if len(files) > 1:
        size_bytes = sum(math.prod(shape) for shape in shapes.values()) * ITEM_BYTES[dtype]
        write_index(folder, files, parts, size_bytes)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json, without the place that the model was loaded from."""
    described = {name: value for name, value in config.items() if name != "_name_or_path"}
    (folder / "config.json").write_text(
        json.dumps(described, indent=2, default=list) + "\n", encoding="utf-8"
    )


def file_names(count: int) -> list[str]:
    """The names of so many files of weights."""
    if count == 1:
        return [f"{NAME}.safetensors"]
    return [f"{NAME}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_index(
    folder: Path, files: Sequence[str], parts: Sequence[Sequence[str]], size_bytes: int
) -> None:
    """Write which tensor is in which file.

    Args:
        folder: of the transformer.
        files: names of the files.
        parts: of each file, the names of its tensors.
        size_bytes: of all tensors.
    """
    places = {name: file for file, names in zip(files, parts, strict=True) for name in names}
    index = {"metadata": {"total_size": size_bytes}, "weight_map": places}
    (folder / f"{NAME}.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _split(shapes: Mapping[str, tuple[int, ...]], item_bytes: int) -> Iterator[list[str]]:
    """The names of the tensors of each file."""
    part: list[str] = []
    size_bytes = 0
    for name, shape in shapes.items():
        tensor_bytes = math.prod(shape) * item_bytes
        if part and size_bytes + tensor_bytes > FILE_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(name)
        size_bytes += tensor_bytes
    if part:
        yield part
