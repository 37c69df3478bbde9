"""The files of a local data folder: images, captions and the rest."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""In lower case."""
CAPTION_SUFFIX: Final = ".txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFiles:
    """Paths relative to a folder, ``/`` between their parts, each group sorted."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    others: tuple[str, ...]


def list_files(folder: Path) -> FolderFiles:
    """Every file of a folder and its sub-folders, grouped by suffix; empty if there is no folder.

    Hidden files and folders are ignored. A symbolic link to a file counts as a file; links to
    folders are not followed.
    """
    images: list[str] = []
    captions: list[str] = []
    others: list[str] = []
    for path in _visible_files(folder):
        match path.suffix.lower():
            case suffix if suffix in IMAGE_SUFFIXES:
                images.append(path.as_posix())
            case suffix if suffix == CAPTION_SUFFIX:
                captions.append(path.as_posix())
            case _:
                others.append(path.as_posix())
    return FolderFiles(images=tuple(images), captions=tuple(captions), others=tuple(others))


def stem_of(path: str) -> str:
    """A relative path without its suffix; an image and its mask have the same one."""
    return PurePosixPath(path).with_suffix("").as_posix()


def _visible_files(folder: Path) -> list[PurePosixPath]:
    found: list[PurePosixPath] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = PurePosixPath(Path(parent).relative_to(folder).as_posix())
        found += [
            inside / name
            for name in files
            if not name.startswith(".") and Path(parent, name).is_file()
        ]
    return sorted(found)
