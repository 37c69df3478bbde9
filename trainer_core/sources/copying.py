"""Fetched files in a folder of the user's choice."""

import os
import shutil
from pathlib import Path

from trainer_core.disk import writing
from trainer_core.sources.errors import SourceError


def copy_files(folder: Path, to: Path) -> None:
    """Copy the files of a folder into a new one, which appears complete or not at all.

    Raises SourceError where something is there already, DiskError where it cannot be written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise SourceError(f"{to} is there already: name a new folder, or an empty one")
    draft = to.absolute().with_name(f".{to.name}.{os.getpid()}.tmp")
    with writing(to):
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, draft, symlinks=False)
            draft.replace(to)  # also over an empty folder
        finally:
            shutil.rmtree(draft, ignore_errors=True)
