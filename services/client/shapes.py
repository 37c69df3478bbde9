"""The JSON of requests and answers as types; a newer service may send more fields.

They equal the schemas of the OpenAPI document, under the same names.
"""

from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

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


RunStatus = Literal[
    "queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"
]


Priority = Literal["low", "normal", "high"]


class RunSecrets(TypedDict):
    """Names of secrets that a run uses."""

    hub: NotRequired[str | None]
    wandb: NotRequired[str | None]


class RunRequest(TypedDict):
    """SimpleTuner's files as JSON, and which dataset each image backend reads."""

    config: dict[str, Any]
    lycoris_config: NotRequired[dict[str, Any] | None]
    data_backends: list[Any]
    prompt_library: NotRequired[dict[str, Any] | None]
    datasets: dict[str, str]
    metadata: NotRequired[dict[str, str]]
    priority: NotRequired[Priority]
    max_cost_micros: NotRequired[int | None]
    max_gpu_hours: NotRequired[float | None]
    deadline: NotRequired[str | None]
    secrets: NotRequired[RunSecrets]


class RunPatch(TypedDict, total=False):
    """What is to be changed; None brings the default back, and removes a pair of metadata."""

    priority: Priority | None
    max_cost_micros: int | None
    max_gpu_hours: float | None
    deadline: str | None
    metadata: dict[str, str | None] | None


class Attempt(TypedDict):
    """The work of one worker on a run; ``outcome`` is None while it runs."""

    id: str
    object: Literal["attempt"]
    fence: int
    from_step: int
    last_step: int
    outcome: str | None
    reason: Failure | None
    lost_steps: int | None
    lost_s: float | None
    charged_s: float
    cost_micros: int
    log_start_byte: int | None
    """Where its output starts in the run's log."""
    started_at: str
    ended_at: str | None


class Waiting(TypedDict):
    """What a run that does not train yet waits for."""

    code: str
    message: str
    position: int | None
    eta_s: float | None


class Spread(TypedDict):
    """Half of all runs are below ``p50``, nine of ten below ``p90``."""

    p50: float
    p90: float


class Basis(TypedDict):
    """What an estimate rests on: attempts of other runs, and the run's own steps."""

    num_attempts: int
    likeness: Literal["same", "scaled", "other_settings"] | None
    own_steps: int


class Estimate(TypedDict):
    """What a run takes, or, while it trains, what is left of it."""

    seconds: Spread
    charged_s: Spread
    cost_micros: Spread | None
    currency: str | None
    basis: Basis


class RunSummary(TypedDict):
    """A training run in a list; ``step`` counts optimizer steps from 1, 0 means none yet."""

    id: str
    object: Literal["run"]
    status: RunStatus
    stage: str | None
    status_reason: Failure | None
    waiting: Waiting | None
    step: int
    max_steps: int
    checkpoint_step: int
    base_model: str
    gpu_class: str
    priority: Priority
    charged_s: float
    cost_micros: int
    currency: str | None
    max_cost_micros: int | None
    max_gpu_hours: float | None
    deadline: str | None
    parent_run_id: str | None
    plan_digest: str
    datasets: dict[str, str]
    metadata: dict[str, str]
    batch_id: str | None
    batch_row: int | None
    links: dict[str, str]
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    version: int


class Relay(TypedDict):
    """The relay of a run's metrics to Weights & Biases."""

    secret: str
    status: Literal["running", "succeeded", "failed"]
    step: int | None
    """The last step whose metrics are there."""
    url: str | None
    error: Failure | None


class Notice(TypedDict):
    """One line about one option."""

    option: str
    pointers: list[str]
    data_backends: list[str]
    message: str


class Notices(TypedDict):
    """What options do here that is not obvious, in three groups."""

    differs: list[Notice]
    no_effect: list[Notice]
    handled: list[Notice]


class Run(RunSummary):
    """A training run."""

    warnings: list[str]
    notices: Notices
    relay: Relay | None
    attempts: list[Attempt]
    """The newest 100, oldest first."""
    estimate: Estimate | None


class Difference(TypedDict):
    """A value that differs; the option is a JSON Pointer."""

    option: str
    before: Any
    after: Any


class Differences(TypedDict):
    """What differs between two runs, in what was sent and in the plans."""

    request: list[Difference]
    plan: list[Difference]


class RunDiff(Differences):
    """What differs between the runs ``before`` and ``after``."""

    object: Literal["run_diff"]
    before: str
    after: str


class ClonedRun(Run):
    """A new run, and how it differs from the one that it was cloned from."""

    diff: Differences
