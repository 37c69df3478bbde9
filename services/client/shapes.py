"""The JSON of requests and answers as types; a newer service may send more fields."""

from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, Self, TypedDict, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """A part of a list; pass ``next_cursor`` as ``after`` to get the next part."""

    data: list[T]
    has_more: bool
    next_cursor: str | None


class Problem(TypedDict):
    """One thing wrong; the pointer is a JSON Pointer, or a file's path."""

    pointer: str
    code: str
    message: str


class Failure(TypedDict):
    """Why something ended badly, and who has to act."""

    code: str
    category: Literal["user", "quota", "capacity", "infra", "platform"]
    message: str
    retryable: bool


class NewFile(TypedDict):
    """A file that will be uploaded; its path is relative, ``/`` separated."""

    path: str
    size_bytes: int
    sha256: str


class Dataset(TypedDict):
    id: str
    object: Literal["dataset"]
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[Problem]
    num_files: int | None
    """None until the dataset is completed."""
    verified_files: int
    links: dict[str, str]
    created_at: str
    updated_at: str


class Upload(TypedDict):
    """A file of a dataset, with the request that stores it where it is not stored yet."""

    path: str
    sha256: str
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]


class UploadPage(TypedDict):
    data: list[Upload]
    has_more: bool
    next_cursor: str | None


class RunRequest(TypedDict):
    """SimpleTuner's files as JSON, and which dataset each image backend reads."""

    config: dict[str, Any]
    lycoris_config: NotRequired[dict[str, Any] | None]
    data_backends: list[Any]
    prompt_library: NotRequired[dict[str, Any] | None]
    datasets: dict[str, str]
    metadata: NotRequired[dict[str, str]]
    priority: NotRequired[Literal["low", "normal", "high"]]


class Attempt(TypedDict):
    """The work of one worker on a run; ``outcome`` is None while it runs."""

    id: str
    fence: int
    from_step: int
    last_step: int
    outcome: str | None
    reason: Failure | None
    lost_steps: int | None
    lost_s: float | None
    charged_s: float
    cost_micros: int
    started_at: str
    ended_at: str | None


class Waiting(TypedDict):
    """What a run that does not train yet waits for."""

    code: str
    message: str
    position: int | None
    eta_s: float | None


class RunSummary(TypedDict):
    """A training run in a list; ``step`` counts optimizer steps from 1, 0 means none yet."""

    id: str
    object: Literal["run"]
    status: str
    stage: str | None
    status_reason: Failure | None
    waiting: NotRequired[Waiting | None]
    step: int
    max_steps: int
    checkpoint_step: int
    base_model: str
    priority: NotRequired[Literal["low", "normal", "high"]]
    charged_s: NotRequired[float]
    cost_micros: NotRequired[int]
    currency: NotRequired[str | None]
    plan_digest: str
    datasets: dict[str, str]
    metadata: dict[str, str]
    links: dict[str, str]
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    version: int


class Run(RunSummary):
    """A training run."""

    warnings: list[str]
    attempts: list[Attempt]
    """The newest 100, oldest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a run; ids count from 1 without gaps."""

    id: int
    type: str
    step: int
    data: dict[str, Any]
    created_at: str

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> Self:
        return cls(
            id=int(body["id"]),
            type=str(body["type"]),
            step=int(body["step"]),
            data=dict(body["data"]),
            created_at=str(body["created_at"]),
        )


class File(TypedDict):
    """A file to download; its URL works for an hour and needs no key."""

    path: str
    size_bytes: int
    sha256: str
    url: str


class Checkpoint(TypedDict):
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
    created_at: str


class Publication(TypedDict):
    id: str
    object: Literal["publication"]
    run_id: str
    target: dict[str, Any]
    status: Literal["pending", "running", "succeeded", "failed"]
    attempts: int
    location: str | None
    revision: str | None
    error: Failure | None
    created_at: str
    updated_at: str
