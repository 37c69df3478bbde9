"""Datasets and uploads, as JSON."""

from typing import Any, Literal, TypedDict

from services.client.shapes import Problem
from services.domain.media import Media


class NewFile(TypedDict):
    """A file that will be uploaded; its path is relative, ``/`` separated."""

    path: str
    size_bytes: int
    sha256: str


class LeftOutRow(TypedDict):
    """A row of a source that has no usable picture."""

    row: str
    """Its address, path or number."""
    message: str


class DatasetSource(TypedDict):
    """What the service fetches a dataset's files from, and how far that is."""

    backend: dict[str, Any]
    """As it was given."""
    status: Literal["importing", "imported", "failed"]
    rows_done: int
    rows_total: int | None
    """None where it is not known."""
    pictures: int
    """That are stored."""
    left_out: int
    """Rows without a usable picture."""
    left_out_rows: list[LeftOutRow]
    """The first ones."""
    fetched_bytes: int
    rows_per_s: float | None
    bytes_per_s: float | None
    seconds_left: float | None


class Dataset(TypedDict):
    id: str
    object: Literal["dataset"]
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[Problem]
    num_files: int | None
    """None until the dataset is completed."""
    verified_files: int
    num_left_out: int
    """Pictures and captions that cannot be used."""
    left_out: list[Problem]
    """The first of them, and why."""
    digest: str | None
    """Of its files; datasets with the same files have the same one. None until it is completed."""
    based_on: str | None
    """The dataset whose files it took over, which may be deleted by now."""
    source: DatasetSource | None
    """None where its files are uploaded; a service of before does not send it."""
    links: dict[str, str]
    created_at: str
    updated_at: str


class DatasetFile(TypedDict):
    """One file of a dataset."""

    object: Literal["dataset_file"]
    path: str
    media: Media
    size_bytes: int
    sha256: str
    width_px: int | None
    """Of an image; None until it is verified."""
    height_px: int | None
    left_out: Problem | None
    """Why it cannot be used; None where it can."""


class DatasetChange(TypedDict):
    """A file that one of two datasets lists otherwise than the other one."""

    object: Literal["dataset_change"]
    path: str
    change: Literal["added", "removed", "changed"]
    media: Media
    size_bytes: int
    """Of the file in the later dataset; of a removed one in the first. So is the SHA-256."""
    sha256: str


class DatasetDiffTotals(TypedDict):
    """How many files differ between two datasets."""

    added: int
    removed: int
    changed: int
    unchanged: int


class DatasetDiff(TypedDict):
    """A part of what differs; pass ``next_cursor`` as ``after`` to get the next one."""

    object: Literal["dataset_diff"]
    before: str
    after: str
    totals: DatasetDiffTotals | None
    """Of all files; on the first part only."""
    changes: list[DatasetChange]
    has_more: bool
    next_cursor: str | None


class Upload(TypedDict):
    """A file of a dataset, with the request that stores it where it is not stored yet.

    A large file is sent in parts of ``part_size_bytes``, and has no request of its own.
    """

    object: Literal["upload"]
    path: str
    sha256: str
    size_bytes: int
    present: bool
    part_size_bytes: int | None
    method: str | None
    url: str | None
    headers: dict[str, str]


class Part(TypedDict):
    """A part of a large file, with the request that stores it where it is not stored yet."""

    number: int
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]


class UploadParts(TypedDict):
    """A large file on its way; it has no parts once it is present."""

    object: Literal["upload_parts"]
    path: str
    present: bool
    parts: list[Part]
