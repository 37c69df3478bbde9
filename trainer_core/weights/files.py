"""The weight files of a base model: published ones, and ones that a run kept. Imports no torch."""

from pathlib import Path, PurePath
from typing import Final

from trainer_core.base_models.layout import read_config
from trainer_core.errors import BaseModelError

_INDEX_NAME: Final = "diffusion_pytorch_model.safetensors.index.json"
_FILE_NAME: Final = "diffusion_pytorch_model.safetensors"
KEPT_FILE_NAME: Final = "weights.safetensors"
_DIGEST_LETTERS: Final = 16


def weight_files(part: Path) -> tuple[Path, ...]:
    """The published files of a part, such as ``transformer``: its index's, or the single file.

    As in diffusers, the index is used where both exist. Raises BaseModelError for a damaged index.
    """
    found = weight_map(part)
    names = {_FILE_NAME} if found is None else set(found.values())
    return tuple(part / name for name in sorted(names))


def weight_map(part: Path) -> dict[str, str] | None:
    """Tensor → file name, as the index says; None without an index. Raises BaseModelError."""
    index = part / _INDEX_NAME
    if not index.is_file():
        return None
    found = read_config(index).get("weight_map")
    # No name leads out of the folder.
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and name and PurePath(name).name == name for name in found.values()
    ):
        raise BaseModelError(f"{index} has no weight_map of tensors to files beside it")
    return found


def kept_name(base_digest: str, form_digest: str) -> str:
    """The name of the folder with a base model's weights in one form."""
    return f"{base_digest[:_DIGEST_LETTERS]}-{form_digest[:_DIGEST_LETTERS]}"


def kept_files(folder: Path, base_digest: str) -> list[Path]:
    """The weights of a base model that are kept in ``folder``, the ones read last first."""
    names = f"{base_digest[:_DIGEST_LETTERS]}-*/{KEPT_FILE_NAME}"
    try:
        found = [(file.parent.stat().st_mtime, file) for file in folder.glob(names)]
    except OSError:  # another process deletes one
        return []
    return [file for _, file in sorted(found, reverse=True)]
