"""Datasets and uploads as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from services.api.datasets.file_kinds import SIZES_BYTES, file_schemas
from services.api.datasets.part_sizes import part_sizes
from services.api.shapes import WHOLE, Body, DatasetId, Name, ProblemItem, Shape, Text
from services.domain.file_names import MAX_PATH_CHARACTERS

MAX_FILES = 100_000
MAX_UPLOADS = 1000
MAX_PARTS = max(len(part_sizes(most)) for _, most in SIZES_BYTES.values())


class FileDeclaration(Body):
    """A file that will be uploaded: an image, a caption (.txt), or an adapter (.safetensors).

    An adapter is what runs start from (``init_lora``); it is no part of the images.

    Its path is relative, with ``/``, in Unicode NFC, and differs from the others in more than case.
    """

    # For the document; ``FileRules`` checks it, with better words.
    model_config = ConfigDict(json_schema_extra={"anyOf": file_schemas()})

    path: Annotated[str, Field(json_schema_extra={"maxLength": MAX_PATH_CHARACTERS})]
    size_bytes: Annotated[int, WHOLE]
    sha256: Annotated[str, Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"})]


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class DatasetRequest(Body):
    """A new dataset: its name and all its files."""

    name: Name
    files: Annotated[list[FileDeclaration], Field(min_length=1, max_length=MAX_FILES)]


class UploadsRequest(Body):
    """Ask for signed PUTs of a dataset's files, a page at a time."""

    dataset_id: DatasetId
    after: Text | None = None
    """``next_cursor`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MAX_UPLOADS), WHOLE] = MAX_UPLOADS


class PartsRequest(Body):
    """Ask for signed PUTs of a large file's parts."""

    dataset_id: DatasetId
    path: Text
    """As in the dataset."""
    sha256: Annotated[list[Sha256], Field(min_length=1, max_length=MAX_PARTS)]
    """Of each part, in order."""


class PartsAbort(Body):
    """Give up the parts of a large file."""

    dataset_id: DatasetId
    path: Text
    """As in the dataset."""


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

    object: Literal["upload"] = "upload"
    path: str
    sha256: str
    size_bytes: int
    present: bool
    part_size_bytes: int | None
    """Where the file is large: the length of each of its parts but the last. It has no PUT of its
    own then; ``POST /v1/uploads/parts`` has those of its parts."""
    method: str | None
    url: str | None
    headers: dict[str, str]
    """To be sent exactly as they are."""


class Part(Shape):
    """A part of a large file, with a signed PUT where it is not stored yet."""

    number: int
    """From 1."""
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]
    """To be sent exactly as they are."""


class UploadParts(Shape):
    """A large file of a dataset on its way."""

    object: Literal["upload_parts"] = "upload_parts"
    path: str
    present: bool
    """Whether the file is stored."""
    parts: list[Part]
    """Empty once the file is stored."""
