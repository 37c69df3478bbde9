"""The weight files of one part of a base model, in diffusers' layout."""

from pathlib import Path, PurePath
from typing import Final

from trainer_core.base_models.layout import read_config
from trainer_core.errors import BaseModelError
from trainer_core.weights.headers import StoredTensor, read_header

_INDEX_NAME: Final = "diffusion_pytorch_model.safetensors.index.json"
_FILE_NAME: Final = "diffusion_pytorch_model.safetensors"


def weight_files(part: Path) -> tuple[Path, ...]:
    """The files of a part, such as ``transformer``: those of its index, or the single file.

    As in diffusers, the index is used where both exist. Raises BaseModelError for a damaged index.
    """
    index = part / _INDEX_NAME
    if not index.is_file():
        return (part / _FILE_NAME,)
    return tuple(part / name for name in sorted(set(_weight_map(index).values())))


def stored_tensors(part: Path) -> dict[str, StoredTensor]:
    """Name → place of every tensor of a part.

    Raises BaseModelError, which names the file and the tensor, where a file is missing or damaged,
    two files hold the same tensor, or a file lacks a tensor that the index places there.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(part):
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise BaseModelError(f"{file} and {tensors[name].file.name} both hold {name}")
            tensors[name] = tensor
    index = part / _INDEX_NAME
    if index.is_file():
        for name, file_name in _weight_map(index).items():
            if name not in tensors or tensors[name].file.name != file_name:
                raise BaseModelError(
                    f"{part / file_name} lacks {name}, which the index places there"
                )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor → file name; no name leads out of the folder."""
    found = read_config(index).get("weight_map")
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and name and PurePath(name).name == name for name in found.values()
    ):
        raise BaseModelError(f"{index} has no weight_map of tensors to files beside it")
    return found
