"""Datasets and uploads as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema

from services.api.datasets.file_kinds import SIZES_BYTES, file_schemas
from services.api.datasets.part_sizes import part_sizes
from services.api.shapes import (
    LEFT_OUT,
    WHOLE,
    Body,
    DatasetId,
    JsonObject,
    Name,
    ProblemItem,
    Shape,
    Text,
)
from services.domain.file_names import MAX_PATH_CHARACTERS
from services.domain.media import Media

MAX_FILES = 100_000
MAX_UPLOADS = 1000
MAX_LISTED = 1000
MAX_LIST_CHARACTERS = 4_000_000
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


# Without JsonObject's reference to the component JsonValue: the schema of a body that is read piece
# by piece is made alone, where there is none.
_Source = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
RemovedPath = Annotated[Text, Field(json_schema_extra={"maxLength": MAX_PATH_CHARACTERS})]


_NO_SOURCE: Final[dict[str, JsonValue]] = {"source": {"type": "null"}, "csv": {"type": "null"}}


class DatasetRequest(Body):
    """A new dataset: its name and its files, all of them, or how they differ from another one's.

    Or what the service fetches them from.
    """

    # For the document; ``WholeDatasetRequest`` checks it, and what ``check_list`` says in words.
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["name", "files"],
                    "properties": {
                        "files": {"minItems": 1},
                        "removed": {"maxItems": 0},
                        **_NO_SOURCE,
                    },
                },
                {
                    "required": ["based_on"],
                    "properties": {"based_on": {"type": "string"}, **_NO_SOURCE},
                },
                {
                    "required": ["name", "source"],
                    "properties": {
                        "source": {"type": "object"},
                        "files": {"maxItems": 0},
                        "removed": {"maxItems": 0},
                        "based_on": {"type": "null"},
                    },
                },
            ]
        }
    )

    name: Name = LEFT_OUT
    """May be left out with ``based_on``: then it is the other dataset's."""
    files: Annotated[list[FileDeclaration], Field(max_length=MAX_FILES)] = Field(
        default_factory=list
    )
    """With ``based_on`` those that are new or have changed."""
    based_on: DatasetId | None = None
    """A dataset, ``verifying`` or ``ready``, whose other files are taken over."""
    removed: Annotated[list[RemovedPath], Field(max_length=MAX_FILES)] = Field(default_factory=list)
    """Paths of that dataset which are not taken over."""
    source: _Source | None = None
    """A data backend of ``type`` csv, huggingface, webshart or webdataset, as in
    multidatabackend.json, without tokens. The service fetches its pictures and captions, which then
    are the dataset's files."""
    csv: Annotated[Text, Field(max_length=MAX_LIST_CHARACTERS)] | None = None
    """The content of the list of a ``source`` of type csv; its ``csv_file`` may also be an address
    (https://…) of one."""


class SourcedDatasetRequest(DatasetRequest):
    """A new dataset whose files the service fetches."""

    name: Name
    source: _Source


class WholeDatasetRequest(DatasetRequest):
    """A new dataset that is based on none."""

    name: Name
    files: Annotated[list[FileDeclaration], Field(min_length=1, max_length=MAX_FILES)]


class UploadsRequest(Body):
    """Ask for signed PUTs of a dataset's files, a page at a time."""

    dataset_id: DatasetId
    after: Text | None = None
    """``next_cursor`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MAX_UPLOADS), WHOLE] = MAX_UPLOADS
    skip_verified: bool = False
    """Leave out files that were verified in the dataset that this one is based on: they are
    stored."""


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


class LeftOutRow(Shape):
    """A row of a source that has no usable picture."""

    row: str
    """Its address, path or number."""
    message: str


class DatasetSource(Shape):
    """What the service fetches a dataset's files from, and how far that is."""

    backend: JsonObject
    """As it was given."""
    status: Literal["importing", "imported", "failed"]
    """Meanwhile the dataset is ``uploading``; then it is ``verifying``, or ``rejected``."""
    rows_done: int
    rows_total: int | None
    """Null where it is not known."""
    pictures: int
    """That are stored."""
    left_out: int
    """Rows without a usable picture. Where they are more than half, the import fails."""
    left_out_rows: list[LeftOutRow]
    """The first ones."""
    fetched_bytes: int
    """Of pictures and captions."""
    rows_per_s: float | None
    """Since the first row, pauses included; null before that, and so are the next two."""
    bytes_per_s: float | None
    seconds_left: float | None
    """Expected at this pace; null also at the end, and where ``rows_total`` is not known."""


class Dataset(Shape):
    """A list of files, immutable once completed."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[ProblemItem]
    """Why it is rejected; the pointer is a file's path. It grows while the dataset is verified, and
    verification stops after some hundred problems."""
    num_files: int | None
    """Null until the dataset is completed."""
    verified_files: int
    """Files that are verified so far."""
    num_left_out: int
    """Pictures and captions among them that cannot be used. Runs go on without them, unless they
    are more than half of the pictures."""
    left_out: list[ProblemItem]
    """The first of those, and why; ``/files?left_out=only`` lists all."""
    digest: str | None
    """``sha256:`` and 64 hex digits. Two datasets with the same files have the same one; null until
    the dataset is completed, and where that was before datasets had digests."""
    based_on: str | None
    """The dataset whose files it took over, which may be deleted by now."""
    source: DatasetSource | None
    """Null where its files are uploaded."""
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime


class DatasetFile(Shape):
    """One file of a dataset."""

    object: Literal["dataset_file"] = "dataset_file"
    path: str
    media: Media
    size_bytes: int
    sha256: str
    width_px: int | None
    """Of an image, as it is displayed; null until it is verified, and for other files."""
    height_px: int | None
    left_out: ProblemItem | None
    """Why it cannot be used; null where it can, and until it is verified."""


class DatasetChange(Shape):
    """A file that one of two datasets lists otherwise than the other one."""

    object: Literal["dataset_change"] = "dataset_change"
    path: str
    change: Literal["added", "removed", "changed"]
    media: Media
    size_bytes: int
    """Of the file in the dataset ``after``; of a removed one in ``before``. So is the SHA-256."""
    sha256: str


class DatasetDiffTotals(Shape):
    """How many files differ between two datasets."""

    added: int
    removed: int
    changed: int
    unchanged: int


class DatasetDiff(Shape):
    """What differs between the datasets ``before`` and ``after``, a part of it at a time."""

    object: Literal["dataset_diff"] = "dataset_diff"
    before: str
    after: str
    totals: DatasetDiffTotals | None
    """Of all files; on the first part only."""
    changes: list[DatasetChange]
    has_more: bool
    next_cursor: str | None
    """The next part begins at ``?after=<next_cursor>``; null at the end."""


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
