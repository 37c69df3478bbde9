"""What the HTTP API answers; times are RFC 3339 in UTC, sizes bytes, ids opaque text."""

from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from services.domain.states import OVER

TERMINAL_EVENTS: Final = frozenset(f"run.{status.value}" for status in OVER)

RunStatus = Literal[
    "queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"
]
T = TypeVar("T")


class Shape(BaseModel):
    """Times are RFC 3339 in UTC, sizes are bytes, ids are opaque text."""

    model_config = ConfigDict(frozen=True)


class Page(Shape, Generic[T]):
    """A part of a list; the next one begins at ``?after=<next_cursor>``."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_cursor: str | None


class ProblemItem(Shape):
    """One thing wrong with a request."""

    pointer: str
    """JSON Pointer into the body, ``query:name`` or ``header:name``, or a file's path."""
    code: str
    message: str


class ProblemDocument(Shape):
    """RFC 9457, with members of our own."""

    type: str
    """``urn:reverie:problem:<code>``."""
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[ProblemItem] = []


class Failure(Shape):
    """Why something ended badly, and who has to act."""

    code: str
    category: Literal["user", "quota", "capacity", "infra", "platform"]
    message: str
    retryable: bool


class Dataset(Shape):
    """A list of files, immutable once completed."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[ProblemItem]
    """What is wrong with a rejected dataset; the pointer is a file's path."""
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime


class Upload(Shape):
    """One file of a dataset, and the request that stores it where it is not stored yet."""

    path: str
    sha256: str
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]
    """To be sent exactly as they stand."""


class Attempt(Shape):
    """One machine's work on a run."""

    id: str
    object: Literal["attempt"] = "attempt"
    fence: int
    from_step: int
    last_step: int
    outcome: str | None
    """None while it lasts; ``finished``, ``stopped``, ``failed`` or ``lost``."""
    reason: Failure | None
    started_at: datetime
    ended_at: datetime | None


class Run(Shape):
    """A training run. ``step`` counts optimizer steps from 1; 0 means none yet."""

    id: str
    object: Literal["run"] = "run"
    status: RunStatus
    stage: str | None
    status_reason: Failure | None
    step: int
    max_steps: int
    checkpoint_step: int
    """Where a new attempt would start."""
    base_model: str
    gpu_class: str
    plan: dict[str, Any]
    """The request, resolved: every default filled in."""
    plan_digest: str
    warnings: list[str]
    datasets: dict[str, str]
    metadata: dict[str, str]
    attempts: list[Attempt]
    links: dict[str, str]
    version: int
    """Rises with each change."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        return self.status in OVER


class Event(Shape):
    """Something that happened to a run; ids count from 1 without gaps."""

    id: int
    object: Literal["event"] = "event"
    type: str
    step: int
    data: dict[str, Any]
    created_at: datetime


class File(Shape):
    """A file to download; the URL works for an hour and needs no key."""

    path: str
    size_bytes: int
    sha256: str
    url: str


class Checkpoint(Shape):
    """A state that training can go on from."""

    object: Literal["checkpoint"] = "checkpoint"
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
    created_at: datetime


class Result(Shape):
    """What a run made."""

    object: Literal["result"] = "result"
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]


class Publication(Shape):
    """A result on its way to a folder or to the Hub."""

    id: str
    object: Literal["publication"] = "publication"
    run_id: str
    target: dict[str, Any]
    status: Literal["pending", "running", "succeeded", "failed"]
    attempts: int
    location: str | None
    revision: str | None
    error: Failure | None
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime
