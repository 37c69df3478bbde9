"""Publications, as JSON."""

from typing import Any, Literal, NotRequired, TypedDict

from services.client.shapes import Failure


class FolderTarget(TypedDict):
    """A folder on the service's own disk."""

    kind: Literal["folder"]


class HubTarget(TypedDict):
    """A repository on the Hugging Face Hub; private unless this says otherwise."""

    kind: Literal["hub"]
    repo_id: str
    private: NotRequired[bool]
    secret: NotRequired[str | None]


class PublicationRequest(TypedDict):
    run_id: str
    checkpoint_step: NotRequired[int | None]
    """Publish the adapter of this checkpoint, not the result."""
    target: FolderTarget | HubTarget


class Publication(TypedDict):
    """The publication of a result or a checkpoint to a folder or to the Hub."""

    id: str
    object: Literal["publication"]
    run_id: str
    checkpoint_step: int | None
    """None: of the result."""
    is_automatic: bool
    """The run made it of its own accord."""
    target: dict[str, Any]
    status: Literal["pending", "running", "succeeded", "failed"]
    attempts: int
    location: str | None
    revision: str | None
    error: Failure | None
    links: dict[str, str]
    created_at: str
    updated_at: str
