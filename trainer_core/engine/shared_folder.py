"""Checks that the ranks of a run see the same folders: those of several nodes may not."""

import os
import secrets
from pathlib import Path
from typing import Final

from trainer_core.disk import writing
from trainer_core.engine.state import Run
from trainer_core.errors import OutputError
from trainer_core.process.ranks import launched_in

_NUMBERS: Final = 1 << 48


def check_shared(run: Run) -> None:
    """Raise OutputError, on every rank, where one does not see what rank 0 writes.

    Checked are the output folder and the folder of the events.
    """
    if run.backend.ranks == 1:
        return
    launched = launched_in(os.environ)
    _check(run, "output folder", Path(run.job.output_dir))
    if launched is not None:
        _check(run, "folder of the events", launched.folder)


def _check(run: Run, what: str, folder: Path) -> None:
    backend = run.backend
    number = secrets.randbelow(_NUMBERS) if backend.rank == 0 else 0
    if backend.rank == 0:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _mark(folder, number).touch()
    number = backend.max_across_ranks(number)
    is_blind = not _mark(folder, number).exists()
    blind = backend.max_across_ranks(backend.rank if is_blind else 0)
    if backend.rank == 0:
        with writing(folder):
            _mark(folder, number).unlink()
    if blind:
        raise OutputError(
            f"the {what} {folder} is not the same for all ranks: rank {blind} does not see what "
            "rank 0 writes there. Name a folder on a file system that all nodes share."
        )


def _mark(folder: Path, number: int) -> Path:
    return folder / f".seen-by-ranks-{number}"
