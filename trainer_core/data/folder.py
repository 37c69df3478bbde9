"""The files of a local data folder: images, captions, the rest, and what runs wrote there."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from trainer_core.data.formats import (
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    OTHER,
    Unread,
    suffix_of,
    unread_kind,
)

_IMAGES: Final = frozenset(IMAGE_SUFFIXES)
_NAMED_AT_MOST: Final = 3
_LOCK_NAME: Final = ".lock"
_WRITTEN_BY_RUNS: Final = ("events.jsonl", "job.json", "course.json", "checkpoints", "result")
"""A folder that has a lock and one of these is the output of a run; ``local.folder`` writes it."""
_OWN_FOLDERS: Final = frozenset({"checkpoints", "result", "cache", "logs"})
_SET_ASIDE: Final = "set-aside-"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderFiles:
    """Paths relative to a folder, ``/`` between their parts, each group sorted."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    others: tuple[str, ...]
    own_output: tuple[str, ...] = ()
    """Folders that were left out, because runs write their output or cache there."""
    unreadable: tuple[str, ...] = ()
    """Folders that cannot be listed (``.`` is the folder itself), and links that lead nowhere."""


def list_files(folder: Path, own: Collection[Path] = ()) -> FolderFiles:
    """Every file of a folder and its sub-folders, grouped by suffix; empty if there is no folder.

    Hidden files and folders are ignored. Symbolic links are followed, but a folder is listed once.
    The output of a run is left out: its pictures are no data.

    Args:
        folder: the folder to list.
        own: folders that this run writes to; left out, too.
    """
    images: list[str] = []
    captions: list[str] = []
    others: list[str] = []
    walk = _Walk(folder, {path.resolve() for path in own})
    for path in walk.files():
        match suffix_of(path):
            case suffix if suffix in _IMAGES:
                images.append(path.as_posix())
            case suffix if suffix == CAPTION_SUFFIX:
                captions.append(path.as_posix())
            case _:
                others.append(path.as_posix())
    return FolderFiles(
        images=tuple(images),
        captions=tuple(captions),
        others=tuple(others),
        own_output=tuple(sorted(walk.own_output)),
        unreadable=tuple(sorted(walk.unreadable)),
    )


def stem_of(path: str) -> str:
    """A relative path without its suffix; an image, its mask and its caption have the same one."""
    return PurePosixPath(path).with_suffix("").as_posix()


def caption_files(captions: Sequence[str]) -> dict[str, str]:
    """Stem → caption file. Of ``a.txt`` and ``a.TXT`` the first counts."""
    return {stem_of(path): path for path in sorted(captions)}


def notes_on(files: FolderFiles) -> list[str]:
    """What is in a folder and not read, each a sentence; nothing where all is read."""
    notes = []
    if files.unreadable:
        notes.append(f"Folders and links that cannot be read: {some_of(files.unreadable)}.")
    if files.own_output:
        notes.append(f"The output of runs is left out: {some_of(files.own_output)}.")
    of_kind: dict[Unread, list[str]] = {}
    for path in files.others:
        kind = unread_kind(path)
        if kind is not None:
            of_kind.setdefault(kind, []).append(path)
    if of_kind:
        notes.append(_unread_note(of_kind))
    return notes


def _unread_note(of_kind: Mapping[Unread, Sequence[str]]) -> str:
    kinds = sorted(of_kind, key=lambda kind: (kind is OTHER, -len(of_kind[kind])))
    parts = []
    for kind in kinds:
        paths = of_kind[kind]
        name = kind.one if len(paths) == 1 else kind.many
        parts.append(f"{len(paths)} {name} ({some_of(paths)})")
    ways = dict.fromkeys(kind.way_out for kind in kinds if kind.way_out)
    total = sum(map(len, of_kind.values()))
    note = f"{total} file{'s are' if total > 1 else ' is'} not read: {', '.join(parts)}."
    if ways:
        sentence = "; ".join(ways)
        note += f" {sentence[0].upper()}{sentence[1:]}."
    return note


def some_of(paths: Sequence[str]) -> str:
    """The first paths, for a message."""
    more = ", …" if len(paths) > _NAMED_AT_MOST else ""
    return ", ".join(paths[:_NAMED_AT_MOST]) + more


class _Walk:
    """Goes through a folder once, and keeps what it passes over."""

    def __init__(self, folder: Path, written: Collection[Path]) -> None:
        """``written``: folders that are left out, resolved."""
        self._folder, self._written = folder, written
        self._seen: set[Path] = set()
        self.own_output: list[str] = []
        self.unreadable: list[str] = []

    def files(self) -> list[PurePosixPath]:
        """The visible files, sorted."""
        found: list[PurePosixPath] = []
        if not self._folder.is_dir():
            return found
        for parent, folders, files in os.walk(self._folder, onerror=self._note, followlinks=True):
            here = Path(parent)
            if here.resolve() in self._seen:
                folders.clear()
                continue
            self._seen.add(here.resolve())
            folders[:] = self._kept(here, folders, files)
            for name in files:
                path = here / name
                if name.startswith("."):
                    continue
                if path.is_file():
                    found.append(self._inside(path))
                elif path.is_symlink() and not path.exists():
                    self.unreadable.append(self._inside(path).as_posix())
        return sorted(found)

    def _note(self, error: OSError) -> None:
        self.unreadable.append(self._inside(Path(error.filename)).as_posix())

    def _inside(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self._folder).as_posix())

    def _kept(self, here: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
        """The sub-folders to go through; links come last, so that a folder has its own name."""
        is_output = here.resolve() in self._written or _is_output(files, folders)
        kept = []
        for name in folders:
            if name.startswith("."):
                continue
            if (is_output and _is_own(name)) or self._is_written(here / name):
                self.own_output.append(self._inside(here / name).as_posix())
            else:
                kept.append(name)
        return sorted(kept, key=lambda name: ((here / name).is_symlink(), name))

    def _is_written(self, folder: Path) -> bool:
        if folder.resolve() in self._written:
            return True
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError:  # the walk comes to it, and notes it
            return False
        return _is_output(names, names)


def _is_output(files: Collection[str], folders: Collection[str]) -> bool:
    """Whether the folder of these files and folders is the output folder of a run."""
    return _LOCK_NAME in files and any(
        name in files or name in folders for name in _WRITTEN_BY_RUNS
    )


def _is_own(name: str) -> bool:
    """Whether it is a name of a folder in a run's output; the data may be right beside it."""
    return name in _OWN_FOLDERS or name.startswith(_SET_ASIDE)
