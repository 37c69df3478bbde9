"""Which files a dataset may list."""

import re
from collections.abc import Iterator
from typing import Final

from services.api.datasets.file_kinds import MEDIA, SIZES_BYTES, media_of
from services.api.datasets.shapes import FileDeclaration
from services.domain.errors import Problem
from services.domain.file_names import folded, path_fault, shown
from services.store.datasets import Media, NewFile

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


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
        media = media_of(file.path)
        problems = [
            *_about_path(file.path, at),
            *_about_content(file, media, at),
            *self._about_twin(file.path, at),
        ]
        if problems or media is None:
            return problems
        return NewFile(path=file.path, media=media, size_bytes=file.size_bytes, sha256=file.sha256)

    def _about_twin(self, path: str, at: str) -> Iterator[Problem]:
        same = folded(path)
        key = same.encode()
        written = key if same == path else path.encode()
        twin = self._seen.setdefault(key, written)
        if twin is not written:
            message = f"{path} is listed twice, also as {twin.decode()} (case is ignored)."
            yield Problem(pointer=f"{at}/path", code="conflict", message=message)


def _about_path(path: str, at: str) -> Iterator[Problem]:
    wrong = path_fault(path)
    if wrong is not None:
        message = f"{shown(path)} {wrong}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)


def _about_content(file: FileDeclaration, media: Media | None, at: str) -> Iterator[Problem]:
    if media is None:
        message = f"The suffix of a file has to be one of {' '.join(MEDIA)}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)
    else:
        least, most = SIZES_BYTES[media]
        if not least <= file.size_bytes <= most:
            message = f"{file.path} has {file.size_bytes} bytes; "
            message += f"a file of this kind has {least} to {most} bytes."
            yield Problem(pointer=f"{at}/size_bytes", code="bad_value", message=message)
    if _SHA256.fullmatch(file.sha256) is None:
        message = "A SHA-256 has 64 lower-case hex digits."
        yield Problem(pointer=f"{at}/sha256", code="bad_value", message=message)
