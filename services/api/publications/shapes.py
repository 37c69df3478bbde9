"""Publications as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from services.api.secrets.shapes import SecretName
from services.api.shapes import WHOLE, Body, Failure, RunId, Shape


class FolderTarget(Body):
    """A folder on the service's own disk."""

    kind: Literal["folder"]


_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"


class HubTarget(Body):
    """A repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo_id: Annotated[str, Field(max_length=96, pattern=f"^(?:{_NAME}/)?{_NAME}$")]
    private: bool = True
    secret: SecretName | None = None
    """Of the kind ``hub``. Null: the tenant's only one, or the service's own token where it has a
    single tenant."""


class PublicationRequest(Body):
    """What to publish, and where."""

    run_id: RunId
    checkpoint_step: Annotated[int, Field(ge=1, lt=2**31), WHOLE] | None = None
    """Publish the adapter of this checkpoint; null: the result."""
    target: Annotated[FolderTarget | HubTarget, Field(discriminator="kind")]


class Publication(Shape):
    """The publication of a result or a checkpoint to a folder or to the Hub."""

    id: str
    object: Literal["publication"] = "publication"
    run_id: str
    checkpoint_step: int | None
    """Null: of the result."""
    is_automatic: bool
    """The run made it of its own accord, by ``push_to_hub`` or ``push_checkpoints_to_hub``. One of
    a checkpoint that still waits when a newer one is made fails with ``superseded``."""
    target: dict[str, Any]
    status: Literal["pending", "running", "succeeded", "failed"]
    attempts: int
    location: str | None
    revision: str | None
    error: Failure | None
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime
