"""The tensors of one part of a base model."""

from pathlib import Path

from trainer_core.errors import BaseModelError
from trainer_core.weights.files import weight_files, weight_map
from trainer_core.weights.headers import StoredTensor, read_header


def stored_tensors(part: Path) -> dict[str, StoredTensor]:
    """Name → place of every tensor of a part, such as ``transformer``.

    Raises BaseModelError, which names the file and the tensor, where a file is missing or damaged,
    two files hold the same tensor, or a file lacks a tensor that the index places there.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(part):
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise BaseModelError(f"{file} and {tensors[name].file.name} both hold {name}")
            tensors[name] = tensor
    for name, file_name in (weight_map(part) or {}).items():
        if name not in tensors or tensors[name].file.name != file_name:
            raise BaseModelError(f"{part / file_name} lacks {name}, which the index places there")
    return tensors
