"""What requests may hold: strict, and nothing that is not listed."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_FILES = 100_000
MAX_UPLOADS = 1000


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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


MetadataValue = Annotated[str, Field(max_length=500)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]


class RunRequest(Body):
    """SimpleTuner's files as JSON, and which dataset stands for which backend."""

    config: dict[str, Any]
    """``config.json``; options are listed in docs/reference/options.md."""
    lycoris_config: dict[str, Any] | None = None
    data_backends: list[Any]
    """``multidatabackend.json``."""
    prompt_library: dict[str, Any] | None = None
    datasets: Annotated[dict[str, str], Field(max_length=100)]
    """Id of an image backend → id of a dataset."""
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = {}


class FolderTarget(Body):
    """A folder on the service's own disk."""

    kind: Literal["folder"]


class HubTarget(Body):
    """A repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo_id: Annotated[
        str, Field(max_length=96, pattern=r"^(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$")
    ]
    private: bool = True


class PublicationRequest(Body):
    run_id: str
    target: Annotated[FolderTarget | HubTarget, Field(discriminator="kind")]
