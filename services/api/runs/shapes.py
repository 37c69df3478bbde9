"""Runs, their attempts, checkpoints and results as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic.config import JsonDict

from services.api.secrets.shapes import SecretName
from services.api.shapes import (
    WHOLE,
    Body,
    DatasetId,
    Failure,
    JsonArray,
    JsonObject,
    Moment,
    Shape,
    Text,
)
from services.domain.priorities import Priority

RunStatus = Literal[
    "queued", "running", "pausing", "paused", "canceling", "succeeded", "failed", "canceled"
]
MetadataValue = Annotated[Text, Field(max_length=500)]
MetadataKey = Annotated[Text, Field(min_length=1, max_length=64)]


MaxCost = Annotated[int, Field(ge=1, lt=2**53), WHOLE]
MaxGpuHours = Annotated[float, Field(ge=0.001, le=1_000_000)]

_NO_OTHER: Final[JsonDict] = {"additionalProperties": False}
"""Keys have to match the pattern of ``Text``."""


class RunSecrets(Body):
    """Names of the tenant's secrets that a run uses; a run never holds their values."""

    hub: SecretName | None = None
    """Publishes to ``hub_model_id``. Null: the tenant's only secret of the kind ``hub``."""
    wandb: SecretName | None = None
    """Relays metrics to Weights & Biases. Null: with ``report_to`` wandb, the tenant's only secret
    of the kind ``wandb``."""


Datasets = Annotated[dict[Text, DatasetId], Field(max_length=100, json_schema_extra=_NO_OTHER)]
"""Id of an image backend → id of a dataset."""


class RunCheck(Body):
    """SimpleTuner's files as JSON; which dataset each image backend reads may be left out."""

    config: JsonObject
    """``config.json``; options are listed in docs/reference/options.md."""
    lycoris_config: JsonObject | None = None
    data_backends: JsonArray
    """``multidatabackend.json``."""
    prompt_library: JsonObject | None = None
    datasets: Datasets | None = None
    """None: what depends on pictures is not checked."""
    metadata: Annotated[
        dict[MetadataKey, MetadataValue], Field(max_length=16, json_schema_extra=_NO_OTHER)
    ] = Field(default={})
    priority: Priority = "normal"
    """Orders the tenant's own runs."""
    max_cost_micros: MaxCost | None = None
    """At this price, in millionths of the currency, it stores a checkpoint and is paused."""
    max_gpu_hours: MaxGpuHours | None = None
    """After so many charged hours it does the same."""
    deadline: Moment | None = None
    """And at this moment."""
    secrets: RunSecrets = RunSecrets()


class RunRequest(RunCheck):
    """SimpleTuner's files as JSON, and which dataset each image backend reads."""

    datasets: Datasets


class Spread(Shape):
    """Half of all runs are below ``p50``, nine of ten below ``p90``."""

    p50: float
    p90: float


class Basis(Shape):
    """What an estimate rests on."""

    num_attempts: int
    """Finished attempts of this GPU class and base model that were used."""
    likeness: Literal["same", "scaled", "other_settings"] | None
    """Of the same settings and work, of the same settings with other work, or of other settings;
    null: it rests on the run's own steps alone."""
    own_steps: int
    """Steps of the run itself that were measured."""


class Estimate(Shape):
    """What a run takes, or, while it trains, what is left of it."""

    seconds: Spread
    """From a worker's claim to the result: without waiting, and without encoding."""
    charged_s: Spread
    cost_micros: Spread | None
    """Null where the operator set no price for the GPU class."""
    currency: str | None
    basis: Basis


class RunPatch(Body):
    """A merge patch (RFC 7396): what is given is changed, null brings the default back."""

    priority: Priority | None = None
    max_cost_micros: MaxCost | None = None
    max_gpu_hours: MaxGpuHours | None = None
    deadline: Moment | None = None
    metadata: (
        Annotated[
            dict[MetadataKey, MetadataValue | None],
            Field(max_length=32, json_schema_extra=_NO_OTHER),
        ]
        | None
    ) = None
    """Merged: pairs that are not given stay, and null removes a pair."""


class CancelRequest(Body):
    """How to cancel."""

    now: bool = False
    """Without a checkpoint."""


class Attempt(Shape):
    """The work of one worker on a run, from its claim to its end."""

    id: str
    object: Literal["attempt"] = "attempt"
    fence: int
    from_step: int
    last_step: int
    outcome: str | None
    """Null while it runs; ``finished``, ``stopped``, ``failed`` or ``lost``."""
    reason: Failure | None
    lost_steps: int | None
    """Steps after its last checkpoint, to be taken again; null while it runs or if it finished."""
    lost_s: float | None
    """Seconds since that checkpoint was stored, or since its start without one."""
    charged_s: float
    """Seconds of training and sampling that were charged."""
    cost_micros: int
    """Their price, in millionths of the run's currency."""
    log_start_byte: int | None
    """Where its output starts in the run's log; null where it has printed nothing."""
    started_at: datetime
    ended_at: datetime | None


class Waiting(Shape):
    """What a run that does not train yet waits for."""

    code: str
    message: str
    position: int | None
    """Among the tenant's own waiting runs of its GPU class; the run at 1 goes first."""
    eta_s: float | None
    """Seconds until it is expected to start; null where that cannot be told."""


class RunSummary(Shape):
    """A training run in a list. ``step`` counts optimizer steps from 1; 0 means none yet."""

    id: str
    object: Literal["run"] = "run"
    status: RunStatus
    stage: str | None
    status_reason: Failure | None
    waiting: Waiting | None
    """Null where it does not wait."""
    step: int
    max_steps: int
    """Optimizer steps of the whole run. Of a run whose length is ``num_train_epochs``, they are
    counted when its data is read; 0 until then."""
    checkpoint_step: int
    """Where a new attempt would start."""
    base_model: str
    gpu_class: str
    priority: Priority
    charged_s: float
    """Seconds of training and sampling that were charged, of all attempts."""
    cost_micros: int
    """Their price, in millionths of the currency."""
    currency: str | None
    """ISO 4217 code; null where the operator set no price for this GPU class."""
    max_cost_micros: int | None
    """At each of these three limits it stores a checkpoint and is paused; null: no limit."""
    max_gpu_hours: float | None
    deadline: datetime | None
    parent_run_id: str | None
    """The run that it was cloned from."""
    plan_digest: str
    """Of the plan; the plan itself is at ``links.plan``."""
    datasets: dict[str, str]
    metadata: dict[str, str]
    batch_id: str | None
    """The batch that it was submitted with."""
    batch_row: int | None
    """Its place there, from 0."""
    links: dict[str, str]
    version: int
    """Rises with each change."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Relay(Shape):
    """The relay of a run's metrics to Weights & Biases. It never touches the run."""

    secret: str
    """Name of the secret that is used."""
    status: Literal["running", "succeeded", "failed"]
    step: int | None
    """The last step whose metrics are there; null where none are."""
    url: str | None
    """Of the run there."""
    error: Failure | None
    """Why the last try failed. While the relay is running, it is tried again; one that failed goes
    on when the secret gets a new value."""


class Notice(Shape):
    """One line about one option."""

    option: str
    """Its name as it was sent."""
    pointers: list[str]
    """JSON Pointers into the request, to each place where it is or would be."""
    data_backends: list[str]
    """Ids of the data backends that have it; empty for an option of another document."""
    message: str


class Notices(Shape):
    """What options do here that is not obvious. Each option is in one group."""

    differs: list[Notice]
    """The run acts differently from what SimpleTuner would do."""
    no_effect: list[Notice]
    """The option changes nothing in this run."""
    handled: list[Notice]
    """Something here does the work of the option by itself."""


class Run(RunSummary):
    """A training run."""

    warnings: list[str]
    """The notices of the group ``differs`` as text, and what was noticed about its data."""
    notices: Notices
    relay: Relay | None
    """Null where its metrics are not relayed."""
    attempts: list[Attempt]
    """The newest 100, oldest first."""
    estimate: Estimate | None
    """What is left of it; null where nothing like it was measured, and after its end."""


class File(Shape):
    """A file to download; the URL works for an hour and needs no key."""

    object: Literal["file"] = "file"
    path: str
    size_bytes: int
    sha256: str
    url: str


class Checkpoint(Shape):
    """A stored state from which training can resume."""

    object: Literal["checkpoint"] = "checkpoint"
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
    created_at: datetime


class Result(Shape):
    """The files that a run produced."""

    object: Literal["result"] = "result"
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]


class CloneRequest(Body):
    """What the new run does differently: a JSON Merge Patch of the run's request."""

    changes: JsonObject = Field(default={})


class Difference(Shape):
    """A value that differs; null where one of the two lacks it."""

    option: str
    """JSON Pointer."""
    before: Any
    after: Any


class Differences(Shape):
    """At most 200 of each."""

    request: list[Difference]
    plan: list[Difference]
    """Of the plans, with every default filled in."""


class RunDiff(Differences):
    """What differs between two runs."""

    object: Literal["run_diff"] = "run_diff"
    before: str
    """Id of the run in the address."""
    after: str
    """Id of the run that it is compared with."""


class ClonedRun(Run):
    """The new run, and how it differs from the one that it was cloned from."""

    diff: Differences
