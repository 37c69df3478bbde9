"""Which files a dataset may list; all problems of the list are reported together."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from services.api.datasets.shapes import FileDeclaration
from services.domain.errors import InvalidRequestError, Problem
from services.store.datasets import Media, NewFile

MAX_PATH_CHARACTERS: Final = 512
MAX_BYTES: Final[dict[Media, int]] = {"image": 100 << 20, "caption": 1 << 20}
_MEDIA: Final[dict[str, Media]] = {
    ".jpg": "image",
    ".jpeg": "image",
    ".png": "image",
    ".webp": "image",
    ".txt": "caption",
}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def check_files(files: Sequence[FileDeclaration]) -> list[NewFile]:
    """The files as new rows; raises InvalidRequestError with every problem."""
    problems: list[Problem] = []
    checked: list[NewFile] = []
    seen: dict[str, str] = {}
    for position, file in enumerate(files):
        at = f"/files/{position}"
        media = _MEDIA.get(PurePosixPath(file.path).suffix.lower())
        found = [*_about_path(file.path, at), *_about_content(file, media, at)]
        folded = unicodedata.normalize("NFC", file.path).casefold()
        if folded in seen:
            message = f"{file.path} is listed twice, also as {seen[folded]} (case is ignored)."
            found.append(Problem(pointer=f"{at}/path", code="conflict", message=message))
        seen.setdefault(folded, file.path)
        if media is not None and not found:
            checked.append(
                NewFile(path=file.path, media=media, size_bytes=file.size_bytes, sha256=file.sha256)
            )
        problems += found
    if problems:
        raise InvalidRequestError(problems)
    return checked


def _about_path(path: str, at: str) -> Iterator[Problem]:
    wrong = _path_fault(path)
    if wrong is not None:
        shown = path if len(path) <= MAX_PATH_CHARACTERS else f"{path[:100]}…"
        message = f"{shown.encode('unicode_escape').decode()} {wrong}."
        if not _CONTROL.search(path):
            message = f"{shown} {wrong}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)


def _path_fault(path: str) -> str | None:
    parts = path.split("/")
    faults = (
        (len(path) > MAX_PATH_CHARACTERS, f"is longer than {MAX_PATH_CHARACTERS} characters"),
        (path.startswith("/"), "is not relative"),
        ("\\" in path, "has a backslash; folders are separated by /"),
        (_CONTROL.search(path) is not None, "has a control character"),
        (".." in parts, "has a part .."),
        ("" in parts or "." in parts, "has an empty part or a part ."),
        (not unicodedata.is_normalized("NFC", path), "is not in Unicode's composed form (NFC)"),
    )
    return next((words for is_wrong, words in faults if is_wrong), None)


def _about_content(file: FileDeclaration, media: Media | None, at: str) -> Iterator[Problem]:
    if media is None:
        message = f"The suffix of a file has to be one of {' '.join(_MEDIA)}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)
    elif not (1 if media == "image" else 0) <= file.size_bytes <= MAX_BYTES[media]:
        least = 1 if media == "image" else 0
        message = f"{file.path} has {file.size_bytes} bytes; "
        message += f"a file of this kind has {least} to {MAX_BYTES[media]} bytes."
        yield Problem(pointer=f"{at}/size_bytes", code="bad_value", message=message)
    if _SHA256.fullmatch(file.sha256) is None:
        message = "A SHA-256 has 64 lower-case hex digits."
        yield Problem(pointer=f"{at}/sha256", code="bad_value", message=message)
