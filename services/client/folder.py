"""The files of a local folder under the names that a dataset gives them."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from services.client.errors import BadNamesError, ClientError, EmptyFolderError
from services.domain.file_names import files_as_folders, key_of, path_fault, shown
from trainer_core.data.folder import FolderFiles, list_files, notes_on
from trainer_core.data.formats import ADAPTER_SUFFIX, CAPTION_SUFFIX, USUAL_SUFFIXES


def list_folder(folder: Path) -> FolderFiles:
    """The files of a folder; images and captions are pushed, others are not.

    Raises ClientError where there is no such folder.
    """
    if folder.is_file():
        raise ClientError(
            f"{folder} is a file; of files only an adapter ({ADAPTER_SUFFIX}) is pushed alone: "
            "name its folder"
        )
    if not folder.is_dir():
        raise ClientError(f"there is no folder {folder}")
    return list_files(folder)


def named_files(place: Path) -> dict[str, Path]:
    """Path in the dataset → local file, sorted, of a folder or of one adapter file.

    Names are composed (NFC), as macOS hands out decomposed ones. Raises EmptyFolderError, and
    BadNamesError where a name means something else on another system.
    """
    if place.suffix.lower() == ADAPTER_SUFFIX and place.is_file():
        folder, paths = place.parent, [place.name]
    else:
        folder, paths = place, _listed(place)
    faults = list(_faults(paths))
    if faults:
        raise BadNamesError(faults)
    return {_composed(path): folder / path for path in paths}


def _listed(folder: Path) -> list[str]:
    """Images and captions of a folder; raises EmptyFolderError."""
    found = list_folder(folder)
    paths = sorted((*found.images, *found.captions), key=PurePosixPath)
    if not paths:
        notes = " ".join(("", *notes_on(found), *_how_adapters_are_pushed(folder, found)))
        raise EmptyFolderError(
            f"{folder} has no image ({USUAL_SUFFIXES} and others) and no caption "
            f"({CAPTION_SUFFIX}).{notes}"
        )
    return paths


def _how_adapters_are_pushed(folder: Path, found: FolderFiles) -> Iterator[str]:
    """A hint where the folder, which has nothing else to push, has an adapter file."""
    for path in found.others:
        if path.lower().endswith(ADAPTER_SUFFIX):
            yield f"To push an adapter, name the file: {folder / path}."
            return


def _faults(paths: list[str]) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    for path in paths:
        wrong = path_fault(_composed(path))
        if wrong is not None:
            yield f"{shown(path)} {wrong}"
            continue
        twin = seen.setdefault(key_of(path), path)
        if twin is not path:
            yield f"{shown(path)} and {shown(twin)} are one file where case does not count"
    for file, inner in files_as_folders(seen):
        both = f"{shown(seen[file])} is also the folder of {shown(seen[inner])}"
        yield f"{both} where case does not count"


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)
