"""The JSON of batches as types."""

from typing import Any, Literal, NotRequired, TypedDict

from services.client.shapes import Failure, Problem, RunRequest, RunStatus


class SweepRange(TypedDict):
    """Numbers to draw from; whole numbers where both ends are."""

    min: float
    max: float
    scale: NotRequired[Literal["linear", "log"]]


class Sweep(TypedDict):
    """Which options take which values; ``num_runs`` and ``seed`` are for ``random``."""

    method: Literal["grid", "zip", "random"]
    options: dict[str, list[Any] | SweepRange]
    num_runs: NotRequired[int | None]
    seed: NotRequired[int | None]


class BatchRequest(TypedDict):
    """Either ``runs``, or ``base`` and ``sweep``."""

    name: NotRequired[str]
    runs: NotRequired[list[RunRequest] | None]
    base: NotRequired[RunRequest | None]
    sweep: NotRequired[Sweep | None]


class RefusedRow(TypedDict):
    """A row of the request that became no run."""

    row: int
    options: dict[str, Any]
    errors: list[Problem]
    num_errors: int


class BatchRow(TypedDict):
    """A row of the request that became a run."""

    row: int
    run_id: str
    options: dict[str, Any]


class BatchSummary(TypedDict):
    """A batch in a list; ``step`` and ``max_steps`` are those of all its runs together."""

    id: str
    object: Literal["batch"]
    name: str
    num_runs: int
    num_refused: int
    counts: dict[str, int]
    step: int
    max_steps: int
    charged_s: float
    cost_micros: int
    currency: str | None
    links: dict[str, str]
    created_at: str


class Batch(BatchSummary):
    """Several runs of one request."""

    sweep: dict[str, Any] | None
    runs: list[BatchRow]
    refused: list[RefusedRow]


class Evaluation(TypedDict):
    """The loss on the same noise and images before and after the training."""

    step: int
    mean: float | None
    held_out_mean: float | None


class ComparedRun(BatchRow):
    """One run beside the others of its batch."""

    status: RunStatus
    stage: str | None
    status_reason: Failure | None
    step: int
    max_steps: int
    loss: float | None
    loss_step: int | None
    best_loss: float | None
    best_loss_step: int | None
    evaluation: Evaluation | None
    charged_s: float
    cost_micros: int
    currency: str | None


class Comparison(TypedDict):
    """The runs of a batch side by side."""

    object: Literal["comparison"]
    batch_id: str
    options: list[str]
    runs: list[ComparedRun]
