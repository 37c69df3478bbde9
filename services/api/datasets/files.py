"""Which files a dataset may list."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from services.api.datasets.shapes import FileDeclaration
from services.domain.errors import Problem
from services.store.datasets import Media, NewFile
from trainer_core.data.captions import MAX_CAPTION_BYTES

MAX_PATH_CHARACTERS: Final = 512
MAX_BYTES: Final[dict[Media, int]] = {"image": 100 << 20, "caption": MAX_CAPTION_BYTES}
_MEDIA: Final[dict[str, Media]] = {
    ".jpg": "image",
    ".jpeg": "image",
    ".png": "image",
    ".webp": "image",
    ".txt": "caption",
}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Also the marks that turn the direction of text: with one, a file can look like a picture."""
_DRIVE: Final = re.compile(r"[A-Za-z]:")


class FileRules:
    """Checks the files of one list, one by one."""

    def __init__(self) -> None:
        # As bytes, since one character beyond ASCII makes a text take up to four times as much.
        self._seen: dict[bytes, bytes] = {}

    def check(self, file: FileDeclaration, at: str) -> NewFile | list[Problem]:
        """The file as a new row, or everything that is wrong with it.

        Args:
            at: JSON Pointer of the file.
        """
        media = _MEDIA.get(PurePosixPath(file.path).suffix.lower())
        problems = [
            *_about_path(file.path, at),
            *_about_content(file, media, at),
            *self._about_twin(file.path, at),
        ]
        if problems or media is None:
            return problems
        return NewFile(path=file.path, media=media, size_bytes=file.size_bytes, sha256=file.sha256)

    def _about_twin(self, path: str, at: str) -> Iterator[Problem]:
        folded = unicodedata.normalize("NFC", path).casefold()
        key = folded.encode()
        written = key if folded == path else path.encode()
        twin = self._seen.setdefault(key, written)
        if twin is not written:
            message = f"{path} is listed twice, also as {twin.decode()} (case is ignored)."
            yield Problem(pointer=f"{at}/path", code="conflict", message=message)


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
        (_DRIVE.match(path) is not None, "begins with a drive"),
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
