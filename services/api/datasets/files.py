"""Which files a dataset may list."""

import re
from collections.abc import Iterator
from typing import Final

from services.api.datasets.file_kinds import SIZES_BYTES, no_media
from services.api.datasets.shapes import FileDeclaration
from services.domain.errors import Problem
from services.domain.file_names import files_as_folders, key_of, path_fault, shown
from services.domain.media import Media, media_of
from services.store.datasets import NewFile

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class FileRules:
    """Checks the files of one list, one by one."""

    def __init__(self) -> None:
        self._seen: dict[bytes, bytes] = {}
        self._removed: dict[str, int] = {}

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

    def about_folders(self) -> Iterator[Problem]:
        """What is wrong with the files that were checked, taken together."""
        for file, inner in files_as_folders(self._seen):
            message = f"{_shown(self._seen[file])} is a file, and also the folder of "
            message += f"{_shown(self._seen[inner])} (case is ignored)."
            yield Problem(pointer="/files", code="conflict", message=message)

    def about_removed(self, path: str, position: int) -> Iterator[Problem]:
        """What is wrong with a path of the base that is not taken over."""
        if self._removed.setdefault(path, position) != position:
            message = f"{shown(path)} is listed twice."
            yield Problem(pointer=f"/removed/{position}", code="conflict", message=message)

    def about_removed_and_listed(self) -> Iterator[Problem]:
        """A problem for each path that both lists have."""
        for path, position in self._removed.items():
            written = path.encode()
            if self._seen.get(key_of(path)) == written:
                message = f"{shown(path)} is in files, too: a file that has changed is only there."
                yield Problem(pointer=f"/removed/{position}", code="conflict", message=message)

    def _about_twin(self, path: str, at: str) -> Iterator[Problem]:
        key, written = key_of(path), path.encode()
        if key == written:
            written = key
        twin = self._seen.setdefault(key, written)
        if twin is not written:
            message = f"{shown(path)} is listed twice, also as {_shown(twin)} (case is ignored)."
            yield Problem(pointer=f"{at}/path", code="conflict", message=message)


def _shown(path: bytes) -> str:
    return shown(path.decode())


def _about_path(path: str, at: str) -> Iterator[Problem]:
    wrong = path_fault(path)
    if wrong is not None:
        message = f"{shown(path)} {wrong}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)


def _about_content(file: FileDeclaration, media: Media | None, at: str) -> Iterator[Problem]:
    if media is None:
        message = f"{shown(file.path)} {no_media(file.path)}."
        yield Problem(pointer=f"{at}/path", code="bad_value", message=message)
    else:
        least, most = SIZES_BYTES[media]
        if not least <= file.size_bytes <= most:
            message = f"{shown(file.path)} has {file.size_bytes} bytes; "
            message += f"a file of this kind has {least} to {most} bytes."
            yield Problem(pointer=f"{at}/size_bytes", code="bad_value", message=message)
    if _SHA256.fullmatch(file.sha256) is None:
        message = "A SHA-256 has 64 lower-case hex digits."
        yield Problem(pointer=f"{at}/sha256", code="bad_value", message=message)
