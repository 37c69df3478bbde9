"""Datasets and uploads as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from services.api.shapes import Body, ProblemItem, Shape

MAX_FILES = 100_000
MAX_UPLOADS = 1000


class FileDeclaration(Body):
    """A file that will be uploaded."""

    path: str
    """Relative, ``/`` separated; the suffix says what it is (.jpg .jpeg .png .webp, .txt)."""
    size_bytes: int
    sha256: str
    """64 lower-case hex digits."""


class DatasetRequest(Body):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    files: Annotated[list[FileDeclaration], Field(min_length=1, max_length=MAX_FILES)]


class UploadsRequest(Body):
    """Ask for signed PUTs of a dataset's files, a page at a time."""

    dataset_id: str
    after: str | None = None
    """``next_cursor`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MAX_UPLOADS)] = MAX_UPLOADS


class Dataset(Shape):
    """A list of files, immutable once completed."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[ProblemItem]
    """What is wrong with its files; the pointer is a file's path. It grows while the dataset is
    verified, and verification stops after some hundred problems."""
    num_files: int | None
    """Null until the dataset is completed."""
    verified_files: int
    """Files that are verified so far."""
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime


class Upload(Shape):
    """One file of a dataset, with a signed PUT where its content is not stored yet."""

    path: str
    sha256: str
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]
    """To be sent exactly as they are."""
