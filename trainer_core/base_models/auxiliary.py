"""Models that an operator keeps beside the base models, and that runs of the service name.

Each is a folder, ``clip-vit-large-patch14`` or ``openai/clip-vit-large-patch14``, in the folder of
base models; its place is its name. Imports no torch.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from trainer_core.base_models.describe import DESCRIPTION_NAME
from trainer_core.errors import BaseModelError
from trainer_core.paths import is_folder

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_CONFIG: Final = "config.json"

Check = Callable[[Path], None]
"""Raises BaseModelError where a folder is no model of the kind that is wanted."""


def find_auxiliary(models_dir: Path, name: str, check: Check) -> Path | None:
    """The folder of the model of this name; None where there is none, or another kind of model.

    A name has one or two parts, none of which begins with a dot: it never leads out of
    ``models_dir``, but for links that the operator made.
    """
    parts = name.split("/")
    if len(parts) > 2 or not all(_PART.fullmatch(part) for part in parts):
        return None
    folder = models_dir.joinpath(*parts)
    return folder if is_folder(folder) and _is_kind(folder, check) else None


def auxiliary_names(models_dir: Path, check: Check) -> list[str]:
    """Names of all models of the kind, in order; empty where the folder cannot be read."""
    found: list[str] = []
    for folder in _folders_in(models_dir):
        if (folder / DESCRIPTION_NAME).exists():
            continue
        if (folder / _CONFIG).exists():
            found += [folder.name] if _is_kind(folder, check) else []
            continue
        inner = (each for each in _folders_in(folder) if (each / _CONFIG).exists())
        found += [f"{folder.name}/{each.name}" for each in inner if _is_kind(each, check)]
    return sorted(found)


def _folders_in(folder: Path) -> Iterator[Path]:
    try:
        inside = list(folder.iterdir())
    except OSError:
        return
    yield from (each for each in inside if _PART.fullmatch(each.name) and is_folder(each))


def _is_kind(folder: Path, check: Check) -> bool:
    try:
        check(folder)
    except (BaseModelError, OSError):
        return False
    return True
