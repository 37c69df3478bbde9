"""Files and folders that appear complete or not at all. Imports no torch."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer_core.disk import writing
from trainer_core.errors import OutputError


def check_new_folder(output: Path) -> None:
    """Raise OutputError where the folder exists and is not empty, or cannot be made there."""
    _check_parents(output)
    if output.is_symlink():
        raise OutputError(f"{output} is a symbolic link: name a new folder, or the one it leads to")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} exists and is not empty; name a new or an empty folder")


def check_new_file(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError where the file exists and may not be replaced, or cannot be made there."""
    _check_parents(output)
    if output.is_dir():
        raise OutputError(f"{output} is a folder: name a file in it")
    if os.path.lexists(output) and not overwrite:
        raise OutputError(f"{output} exists: give another --output, or --overwrite to replace it")


def _check_parents(output: Path) -> None:
    """Raise OutputError where a file is in the place of a folder that has to hold the output."""
    there = next(each for each in output.absolute().parents if os.path.lexists(each))
    if not there.is_dir():
        raise OutputError(f"{there} is no folder: give another --output")


@contextlib.contextmanager
def folder_at_once(output: Path) -> Iterator[Path]:
    """A draft folder, still to be made, that is renamed to ``output`` at the end.

    It is deleted after an error. Raises DiskError, and OutputError as ``check_new_folder`` where
    another process was faster.
    """
    target = output.absolute()
    with _folder_near(target) as near:
        yield near / "draft"
        check_new_folder(target)
        (near / "draft").rename(target)


@contextlib.contextmanager
def file_at_once(output: Path, name: str) -> Iterator[Path]:
    """An empty draft folder, whose file ``name`` becomes ``output`` at the end.

    The folder is deleted, with whatever else is in it. Raises DiskError.
    """
    target = output.absolute()
    with _folder_near(target) as draft:
        yield draft
        with (draft / name).open("rb") as file:
            os.fsync(file.fileno())
        (draft / name).replace(target)


@contextlib.contextmanager
def _folder_near(target: Path) -> Iterator[Path]:
    """A hidden folder of this writer alone, on the disk of ``target``; deleted at the end."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        near = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:80]}-")
        yield Path(stack.enter_context(near))
