"""How the files of a folder or a dataset differ from those of a dataset; nothing is uploaded."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.client.calls.datasets import MAX_FILES_A_PAGE
from services.client.client import Client
from services.client.dataset_shapes import DatasetChange, DatasetDiffTotals, DatasetFile, NewFile
from services.client.folder import named_files
from services.client.pages import every
from services.domain.dataset_digest import DigestedFile, digest_of, in_order
from services.domain.media import Media, media_of


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderChanges:
    """What differs in a folder from a dataset."""

    changes: list[DatasetChange]
    """By path."""
    unchanged: int
    """How many files are the same."""

    @property
    def removed(self) -> list[str]:
        """Paths of the dataset that the folder does not have."""
        return [each["path"] for each in self.changes if each["change"] == "removed"]

    @property
    def new_files(self) -> list[NewFile]:
        """What the folder has and the dataset has not, or has with another content."""
        return [
            {"path": each["path"], "size_bytes": each["size_bytes"], "sha256": each["sha256"]}
            for each in self.changes
            if each["change"] != "removed"
        ]

    @property
    def totals(self) -> DatasetDiffTotals:
        counted = Counter(each["change"] for each in self.changes)
        return {
            "added": counted["added"],
            "removed": counted["removed"],
            "changed": counted["changed"],
            "unchanged": self.unchanged,
        }


def describe(
    found: Mapping[str, Path], on_file: Callable[[int], None] = lambda _: None
) -> list[NewFile]:
    """Path in the dataset, size and SHA-256 of local files.

    Args:
        found: path in the dataset → local file, as ``named_files`` finds them.
        on_file: called after each file with the number of files so far.
    """
    files: list[NewFile] = []
    for path, local in found.items():
        with local.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        files.append({"path": path, "size_bytes": size_bytes, "sha256": sha256})
        on_file(len(files))
    return files


def digest_of_files(files: Iterable[NewFile]) -> str:
    """The digest that a dataset of these files has."""
    return digest_of(
        in_order(
            DigestedFile(each["path"], _media(each["path"]), each["size_bytes"], each["sha256"])
            for each in files
        )
    )


def files_in(client: Client, dataset_id: str) -> Iterator[DatasetFile]:
    """The files of a dataset by path, page by page."""
    return every(
        lambda after: client.list_dataset_files(dataset_id, limit=MAX_FILES_A_PAGE, after=after)
    )


def changes_from(base: Iterable[DatasetFile], files: Sequence[NewFile]) -> FolderChanges:
    """What is added, removed and changed from a dataset to local files."""
    left = {file["path"]: file for file in files}
    changes: list[DatasetChange] = []
    for old in base:
        new = left.pop(old["path"], None)
        if new is None:
            changes.append(_change("removed", old))
        elif (new["size_bytes"], new["sha256"]) != (old["size_bytes"], old["sha256"]):
            changes.append(_change("changed", new))
    unchanged = len(files) - len(left) - sum(each["change"] == "changed" for each in changes)
    changes += [_change("added", file) for file in left.values()]
    return FolderChanges(
        changes=sorted(changes, key=lambda each: each["path"]), unchanged=unchanged
    )


def changes_in_folder(client: Client, dataset_id: str, place: Path) -> FolderChanges:
    """What is added, removed and changed from a dataset to a folder, or to one adapter file.

    Raises as ``push_folder`` does where the folder could not be pushed.
    """
    return changes_from(files_in(client, dataset_id), describe(named_files(place)))


def changes_between(
    client: Client, before: str, after: str
) -> tuple[list[DatasetChange], DatasetDiffTotals]:
    """All that differs between two datasets, by path, and how many files of each kind."""
    changes: list[DatasetChange] = []
    totals: DatasetDiffTotals = {"added": 0, "removed": 0, "changed": 0, "unchanged": 0}
    cursor: str | None = None
    while True:
        part = client.diff_datasets(before, against=after, limit=MAX_FILES_A_PAGE, after=cursor)
        changes += part["changes"]
        totals = part["totals"] or totals
        cursor = part["next_cursor"]
        if cursor is None:
            return changes, totals


def _change(
    kind: Literal["added", "removed", "changed"], file: DatasetFile | NewFile
) -> DatasetChange:
    return {
        "object": "dataset_change",
        "path": file["path"],
        "change": kind,
        "media": _media(file["path"]),
        "size_bytes": file["size_bytes"],
        "sha256": file["sha256"],
    }


def _media(path: str) -> Media:
    """Of a file that is part of datasets."""
    media = media_of(path)
    assert media is not None
    return media
