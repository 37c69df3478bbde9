"""Where the pictures of a data backend come from, if not from a folder of files.

A source is no part of a plan: it says where files are fetched from, and a run reads the files.
Secrets are shown in no text of these documents.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

SourceKind = Literal["local", "csv", "huggingface", "aws", "webshart", "webdataset"]
MAX_ROWS: Final = 1_000_000
MAX_FILE_BYTES: Final = 100 << 20
_DATASET: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionColumns:
    """Which columns of a row hold its captions; ``a.b`` is field b of the object in column a."""

    columns: tuple[str, ...]
    """Each gives a caption, and a list in it one caption an item."""
    fallback: tuple[str, ...] = ()
    """The first of these that is not empty is taken where the columns are empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionTable:
    """A table with the captions of files: parquet, JSON or JSON lines."""

    path: str
    filename_column: str
    captions: CaptionColumns
    has_suffixes: bool
    """Whether names in the table have the suffixes of their files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvSource:
    """A list of addresses, each with a caption."""

    file: str
    url_column: str
    caption_column: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFilter:
    """Which rows are taken; the others are as if they were not there."""

    collections: tuple[str, ...] = ()
    """Of the column ``collection``; empty: all."""
    quality_column: str = "quality_assessment"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Field of the quality column → the smallest value that is taken; a missing one counts as 0."""
    min_width: float = 0
    min_height: float = 0
    """Of the columns ``width`` and ``height``; a missing one counts as 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """A dataset of the Hugging Face Hub."""

    dataset: str
    """``owner/name``."""
    revision: str | None
    """None: the newest commit."""
    split: str
    config: str | None
    """One of the configurations of the dataset, which its card or its folders name."""
    image_column: str
    captions: CaptionColumns
    rows: RowFilter
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """A folder on this machine whose captions are in a table."""

    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketSource:
    """The objects of an S3 bucket below a prefix."""

    bucket: str
    prefix: str
    """Empty, or ends with ``/``: a folder, so that ``cats`` has no picture of ``cats2``."""
    endpoint: str | None
    """None: Amazon's own, or what boto3's configuration says."""
    region: str | None
    access_key: str | None = field(default=None, repr=False)
    """None: as boto3 finds it in the environment and its files."""
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarSource:
    """Tar files with pictures and their captions, as WebDataset and webshart have them."""

    source: str
    """A folder or file, an address with ``{00..11}`` for several, or a dataset of the Hub."""
    metadata: str | None
    """Where the JSON files of the tar files are; None: beside them, if there are any."""
    subfolder: str
    """Of the dataset of the Hub; empty: all of it."""
    has_first_dots: bool
    """A sample's key ends at the first dot of a name, as in WebDataset; else at the last one."""
    are_whole_texts: bool
    """A text file is one caption; else each of its lines is one."""
    max_file_bytes: int | None
    """Larger files in them are left out, also where the limit of the source is above."""
    token: str | None = field(default=None, repr=False)


Place = CsvSource | HubSource | FolderSource | BucketSource | TarSource


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSource:
    """What a backend's pictures are fetched from, before its folder is read like any other."""

    place: Place
    wants_captions: bool
    """Whether captions are fetched, too: not for masks, nor where one prompt is the caption."""
    table: CaptionTable | None = None
    max_rows: int | None = None
    """So many rows are taken, the first ones; None: all, of at most ``MAX_ROWS``."""
    max_file_bytes: int = MAX_FILE_BYTES


def is_address(text: str) -> bool:
    """Whether a place that is written as text is an address, and no path."""
    return text.lower().startswith(("http://", "https://"))


def is_dataset(text: str) -> bool:
    """Whether a place that is written as text may be a dataset of the Hub: ``owner/name``."""
    return _DATASET.fullmatch(text) is not None
