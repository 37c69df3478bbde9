"""Failures of a disk in plain words, with the way on: it is full, read-only, or not there any more.

Python names the file in some of these errors only, and safetensors names neither file nor number.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from trainer_core.errors import Category, TrainerError

Code = Literal["disk_full", "disk_failed"]

_OF_SAFETENSORS: Final = re.compile(r"\(os error (\d+)\)")
_AGAIN: Final = "then give the same command again"
_FULL: Final = f"there is no space left for {{place}}: free some on its disk, {_AGAIN}"
_READ_ONLY: Final = (
    "{place} is on a disk that is mounted read-only: mount it with the right to write, or name "
    f"another folder, {_AGAIN}"
)
_FORBIDDEN: Final = (
    f"this user has no right to {{place}}: change its permissions, or name another folder, {_AGAIN}"
)
_TOO_LARGE: Final = (
    f"{{place}} became larger than its disk or this user's limit allows: name a folder on another "
    f"disk, or raise the limit (ulimit -f), {_AGAIN}"
)
_SILENT: Final = f"the disk of {{place}} does not answer: check it, or mount it again, {_AGAIN}"
_WORDS: Final[Mapping[int | None, tuple[Code, str]]] = {
    errno.ENOSPC: ("disk_full", _FULL),
    errno.EDQUOT: ("disk_full", _FULL),
    errno.EFBIG: ("disk_full", _TOO_LARGE),
    errno.EROFS: ("disk_failed", _READ_ONLY),
    errno.EACCES: ("disk_failed", _FORBIDDEN),
    errno.EPERM: ("disk_failed", _FORBIDDEN),
    errno.EIO: ("disk_failed", _SILENT),
    errno.ESTALE: ("disk_failed", _SILENT),
    errno.ENOTCONN: ("disk_failed", _SILENT),
    errno.ENODEV: ("disk_failed", _SILENT),
    errno.ENXIO: ("disk_failed", _SILENT),
    errno.EHOSTDOWN: ("disk_failed", _SILENT),
}
"""Error number of the system → code, and what to say of a place."""


class DiskError(TrainerError):
    """A disk failed; the message names the place and the way on.

    It is for the person at the machine. ``failure_of`` has a message for others, without the place.
    """

    code: Code
    category: Category = Category.INFRA
    retryable = True

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def error_number(error: BaseException) -> int | None:
    """The system's number of an error; None for any other kind of error."""
    if isinstance(error, OSError):
        return error.errno
    kind = getattr(sys.modules.get("safetensors"), "SafetensorError", None)
    if isinstance(kind, type) and isinstance(error, kind):
        found = _OF_SAFETENSORS.search(str(error))
        return None if found is None else int(found[1])
    return None


def disk_error(error: BaseException, place: Path | None = None) -> DiskError | None:
    """The error as one of a disk; None where it is none.

    ``place``: what was written to, for errors that name no file, or a hidden one: a user knows the
    file that a draft becomes. None: not known.
    """
    if isinstance(error, DiskError):
        return error
    known = _WORDS.get(error_number(error))
    if known is None:
        return None
    code, words = known
    shown = _shown_place(error, place)
    if shown is None:
        system = os.strerror(error_number(error) or 0)
        return DiskError(code, f"the system says: {system}. It does not name the file")
    return DiskError(code, words.format(place=shown))


def _shown_place(error: BaseException, place: Path | None) -> Path | None:
    named = error.filename if isinstance(error, OSError) else None
    if isinstance(named, str | os.PathLike):
        file = Path(named)
        return place if place is not None and _is_hidden(file, place) else file
    return place


def _is_hidden(file: Path, place: Path) -> bool:
    """Whether a file is a draft, or in one, which is in the place or beside it."""
    for folder in (place, place.parent):
        if file.is_relative_to(folder):
            return any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.name.startswith(".")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Name the file that is read in the block in its errors: Python names it only in opening it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise the errors of a disk as DiskError; ``place`` is what is written to in the block."""
    try:
        yield
    except Exception as error:
        known = disk_error(error, place)
        if known is None or known is error:
            raise
        raise known from error


def require_folder(folder: Path) -> None:
    """Raise DiskError where a folder that was there before is gone.

    Otherwise a run whose disk was unmounted would go on in the folder below.
    """
    with writing(folder):
        is_there = folder.is_dir()
    if not is_there:
        raise DiskError(
            "disk_failed",
            f"{folder} is gone: it was deleted, or its disk is not mounted any more. Mount it "
            f"again, {_AGAIN}",
        )
