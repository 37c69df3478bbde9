"""Datasets and uploads as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from services.api.datasets.file_kinds import MAX_PATH_CHARACTERS, file_schemas
from services.api.shapes import WHOLE, Body, DatasetId, ProblemItem, Shape, Text

MAX_FILES = 100_000
MAX_UPLOADS = 1000


class FileDeclaration(Body):
    """A file that will be uploaded: an image, or a caption (.txt).

    Its path is relative, with ``/``, in Unicode NFC, and differs from the others in more than case.
    """

    # For the document; ``FileRules`` checks it, with better words.
    model_config = ConfigDict(json_schema_extra={"anyOf": file_schemas()})

    path: Annotated[str, Field(json_schema_extra={"maxLength": MAX_PATH_CHARACTERS})]
    size_bytes: Annotated[int, WHOLE]
    sha256: Annotated[str, Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"})]


class DatasetRequest(Body):
    name: Annotated[Text, Field(min_length=1, max_length=200)]
    files: Annotated[list[FileDeclaration], Field(min_length=1, max_length=MAX_FILES)]


class UploadsRequest(Body):
    """Ask for signed PUTs of a dataset's files, a page at a time."""

    dataset_id: DatasetId
    after: Text | None = None
    """``next_cursor`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MAX_UPLOADS), WHOLE] = MAX_UPLOADS


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
