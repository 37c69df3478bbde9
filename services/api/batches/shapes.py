"""Batches as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from services.api.runs.shapes import RunRequest, RunStatus
from services.api.shapes import (
    WHOLE,
    Body,
    Failure,
    JsonObject,
    OptionalName,
    ProblemItem,
    Shape,
    Text,
)
from services.domain.sweeps import MAX_OPTIONS, MAX_ROWS, Method, Scale

_ARRAY: Final[JsonDict] = {"type": "array"}
_OBJECT: Final[JsonDict] = {"type": "object"}
_NULL: Final[JsonDict] = {"type": "null"}
_ONE_OF_BOTH: Final[JsonDict] = {
    "oneOf": [
        {
            "required": ["runs"],
            "properties": {"runs": _ARRAY, "base": _NULL, "sweep": _NULL},
        },
        {
            "required": ["base", "sweep"],
            "properties": {"runs": _NULL, "base": _OBJECT, "sweep": _OBJECT},
        },
    ]
}
_VALUES: Final = {
    "anyOf": [
        {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_ROWS,
            "items": {"$ref": "#/components/schemas/JsonValue"},
        },
        {"$ref": "#/components/schemas/SweepRange"},
    ]
}


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number", "It has to be a number")
    return value


Number = Annotated[Any, AfterValidator(_number), WithJsonSchema({"type": "number"})]
"""An int or a float, as it was sent."""
OptionName = Annotated[Text, Field(min_length=1, max_length=200)]


class SweepRange(Body):
    """Numbers to draw from, both ends included; whole numbers where both ends are."""

    min: Number
    max: Number
    scale: Scale = "linear"
    """``log``: each power of ten is equally likely."""


class SweepRequest(Body):
    """Which options take which values."""

    method: Method
    """``grid``: every combination, the last option changes fastest; ``zip``: the first values of
    all options, then the second ones; ``random``: ``num_runs`` rows drawn by ``seed``."""
    options: Annotated[
        dict[OptionName, Annotated[Any, WithJsonSchema(_VALUES)]],
        Field(
            min_length=1,
            max_length=MAX_OPTIONS,
            json_schema_extra={"additionalProperties": False},
        ),
    ]
    """Name of an option → its values: a list, or with ``random`` a range."""
    num_runs: Annotated[int, Field(ge=1, le=MAX_ROWS), WHOLE] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53), WHOLE] | None = None


class BatchRequest(Body):
    """Several runs: a list of them, or one with a sweep over some of its options."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_BOTH)

    name: OptionalName = ""
    runs: Annotated[list[RunRequest], Field(min_length=1, max_length=MAX_ROWS)] | None = None
    base: RunRequest | None = None
    """What all runs of the sweep have, other than the swept options."""
    sweep: SweepRequest | None = None


class RefusedRow(Shape):
    """A row of the request that became no run."""

    row: int
    """From 0."""
    options: JsonObject
    """What it has other than the other rows of its batch."""
    errors: list[ProblemItem]
    """The first of them. Pointers lead into the body of the request."""
    num_errors: int


class BatchRow(Shape):
    """A row of the request that became a run."""

    row: int
    run_id: str
    options: JsonObject
    """What it has other than the batch's other runs."""


class BatchSummary(Shape):
    """A batch in a list."""

    id: str
    object: Literal["batch"] = "batch"
    name: str
    num_runs: int
    """Accepted rows of the request."""
    num_refused: int
    counts: dict[RunStatus, int]
    """How many of its runs have each status, of those statuses that one has."""
    step: int
    """Of all runs together."""
    max_steps: int
    """Of all runs together."""
    charged_s: float
    cost_micros: int
    currency: str | None
    links: dict[str, str]
    created_at: datetime


class Batch(BatchSummary):
    """Several runs of one request."""

    sweep: JsonObject | None
    """As sent, with the seed that was used; null where the request listed its runs."""
    runs: list[BatchRow]
    refused: list[RefusedRow]


class Evaluation(Shape):
    """The loss on the same noise and images before and after the training."""

    step: int
    mean: float | None
    """null where it is not a number."""
    held_out_mean: float | None
    """Of images that are not trained on; null where there are none."""


class ComparedRun(BatchRow):
    """One run beside the others of its batch."""

    status: RunStatus
    stage: str | None
    status_reason: Failure | None
    step: int
    max_steps: int
    loss: float | None
    """The newest that it reported; null where it reported none lately."""
    loss_step: int | None
    best_loss: float | None
    """The lowest of a step; null where it reported none."""
    best_loss_step: int | None
    evaluation: Evaluation | None
    """The newest fixed validation loss; null where it reported none lately. A run that succeeded
    has that of its result."""
    charged_s: float
    cost_micros: int
    currency: str | None


class Comparison(Shape):
    """The runs of a batch side by side."""

    object: Literal["comparison"] = "comparison"
    batch_id: str
    options: list[str]
    """Names of the options in which runs differ, in the order of the sweep."""
    runs: list[ComparedRun]
