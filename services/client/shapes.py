"""The JSON of requests and answers as types; a newer service may send more fields.

They equal the schemas of the OpenAPI document, under the same names.
"""

from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, Self, TypedDict, TypeVar

from services.domain.access import Role, Scope

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
    """A file of a dataset, with the request that stores it where it is not stored yet.

    A large file is sent in parts of ``part_size_bytes``, and has no request of its own.
    """

    object: Literal["upload"]
    path: str
    sha256: str
    size_bytes: int
    present: bool
    part_size_bytes: int | None
    method: str | None
    url: str | None
    headers: dict[str, str]


class Part(TypedDict):
    """A part of a large file, with the request that stores it where it is not stored yet."""

    number: int
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]


class UploadParts(TypedDict):
    """A large file on its way; it has no parts once it is present."""

    object: Literal["upload_parts"]
    path: str
    present: bool
    parts: list[Part]


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


SecretKind = Literal["hub", "s3", "wandb"]


class Secret(TypedDict):
    """What is known of a secret; nobody can read its value."""

    id: str
    object: Literal["secret"]
    name: str
    kind: SecretKind
    version: int
    warning: str | None
    links: dict[str, str]
    created_at: str
    updated_at: str
    last_used_at: str | None


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


class Run(RunSummary):
    """A training run."""

    warnings: list[str]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a run; ids count from 1 without gaps."""

    id: int
    object: Literal["event"] = "event"
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPiece:
    """Some lines that a training process printed; bytes count over all attempts of the run."""

    object: Literal["log_piece"] = "log_piece"
    attempt: int
    start_byte: int
    end_byte: int
    """``after`` of a call for what follows."""
    text: str
    created_at: str

    @classmethod
    def of_json(cls, body: dict[str, Any]) -> Self:
        return cls(
            attempt=int(body["attempt"]),
            start_byte=int(body["start_byte"]),
            end_byte=int(body["end_byte"]),
            text=str(body["text"]),
            created_at=str(body["created_at"]),
        )


class MetricSeries(TypedDict):
    """One metric in bins of equally many steps; each list has one item a bin."""

    name: str
    first_step: list[int]
    last_step: list[int]
    count: list[int]
    """Steps that have a finite value; where there is none, the next three are None."""
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


class Metrics(TypedDict):
    """Numbers that training reports with its steps."""

    object: Literal["metrics"]
    run_id: str
    names: list[str]
    """What the run reports with its newest steps."""
    every_nth_event: int
    series: list[MetricSeries]


class Sample(TypedDict):
    """A picture that the run made; its URL works for an hour and needs no key."""

    object: Literal["sample"]
    run_id: str
    step: int
    path: str
    prompt: str | None
    size_bytes: int
    sha256: str
    url: str


class File(TypedDict):
    """A file to download; its URL works for an hour and needs no key."""

    object: Literal["file"]
    path: str
    size_bytes: int
    sha256: str
    url: str


class Checkpoint(TypedDict):
    """A stored state from which training can resume."""

    object: Literal["checkpoint"]
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]
    created_at: str


class Result(TypedDict):
    """The files that a run produced."""

    object: Literal["result"]
    run_id: str
    step: int
    size_bytes: int
    manifest_sha256: str
    files: list[File]


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
    target: dict[str, Any]
    status: Literal["pending", "running", "succeeded", "failed"]
    attempts: int
    location: str | None
    revision: str | None
    error: Failure | None
    links: dict[str, str]
    created_at: str
    updated_at: str


class Member(TypedDict):
    """Who acts for the tenant, with API keys of its own."""

    id: str
    object: Literal["member"]
    name: str
    role: Role
    links: dict[str, str]
    created_at: str


class MemberChanges(TypedDict, total=False):
    name: str
    role: Role


class ApiKeyRequest(TypedDict):
    name: str
    member_id: NotRequired[str | None]
    scopes: NotRequired[list[Scope] | None]
    expires_at: NotRequired[str | None]


class ApiKey(TypedDict):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"]
    name: str
    member_id: str | None
    scopes: list[str] | None
    """None: all that the member's role has."""
    expires_at: str | None
    last_used_at: str | None
    replaced_by: str | None
    links: dict[str, str]
    created_at: str


class NewApiKey(ApiKey):
    secret: str | None
    """None where the answer to the first try was lost: rotate the key."""


class ClassUsage(TypedDict):
    gpu_class: str
    charged_s: float
    cost_micros: int
    currency: str | None


class MonthUsage(TypedDict):
    """GPU time of a calendar month (UTC); its id is such as 2026-11."""

    id: str
    object: Literal["month_usage"]
    gpu_classes: list[ClassUsage]


class Quota(TypedDict):
    """A limit of the tenant; ``used`` is None for a quota of requests."""

    id: str
    object: Literal["quota"]
    limit: int | float
    used: int | float | None
    is_default: bool


class QuotaChanges(TypedDict, total=False):
    """Limits to set; None brings the service's default back."""

    queued_runs: int | None
    concurrent_runs: int | None
    gpu_hours: float | None
    storage_bytes: int | None
    uploads: int | None
    requests_per_minute: int | None


class TenantRequest(TypedDict):
    name: str
    weight: NotRequired[float]
    quotas: NotRequired[QuotaChanges]


class TenantChanges(TypedDict, total=False):
    name: str
    weight: float
    quotas: QuotaChanges


class TenantSummary(TypedDict):
    """A tenant in an operator's list."""

    id: str
    object: Literal["tenant"]
    name: str
    weight: float
    links: dict[str, str]
    created_at: str


class Tenant(TenantSummary):
    quotas: list[Quota]


class Deletion(TypedDict):
    """The deletion of a run, a dataset or a tenant."""

    id: str
    object: Literal["deletion"]
    kind: Literal["run", "dataset", "tenant"]
    target: str
    status: Literal["pending", "running", "succeeded"]
    waits_for: str | None
    report: dict[str, Any]
    """``rows`` by table, ``objects`` by folder, ``kept``, ``shared``, ``checked``."""
    links: dict[str, str]
    created_at: str
    finished_at: str | None


class AuditEvent(TypedDict):
    """Who did what; ``hash`` is of everything else, with ``hash_before`` of the event before."""

    object: Literal["audit_event"]
    seq: int
    tenant_id: str
    created_at: str
    actor: dict[str, Any]
    action: str
    target: str
    client: str
    data: dict[str, Any]
    hash_before: str
    hash: str


class AuditMisfit(TypedDict):
    seq: int
    kind: Literal["edited", "removed", "reordered", "rewritten", "truncated"]
    message: str


class AuditLoss(TypedDict):
    """Events that were lost when a backup was restored, as an operator acknowledged it."""

    first_seq: int
    last_seq: int
    acknowledged_by_seq: int
    acknowledged_at: str


class AuditVerification(TypedDict):
    """What a part of the audit log is like."""

    object: Literal["audit_verification"]
    is_whole: bool
    misfit: AuditMisfit | None
    first_seq: int | None
    last_seq: int | None
    anchored_seq: int | None
    losses: list[AuditLoss]
    next_after: int | None


class GpuClass(TypedDict):
    """A class of GPUs: its price, and what a worker of it has."""

    id: str
    object: Literal["gpu_class"]
    price_micros_per_hour: int
    currency: str
    memory_bytes: int | None
    capability: str | None


class Worker(TypedDict):
    """A process that takes work, as operators see it."""

    id: str
    object: Literal["worker"]
    kind: str
    gpu_class: str
    version: str
    node: str
    draining: bool
    drain_reason: Failure | None
    run_id: str | None
    started_at: str
    heartbeat_at: str


class WorkerKeyRequest(TypedDict):
    """A key for one worker that joins over HTTPS."""

    name: str
    gpu_class: str
    node: NotRequired[str | None]
    expires_at: NotRequired[str | None]


class WorkerKey(TypedDict):
    """A remote worker's key, without its secret."""

    id: str
    object: Literal["worker_key"]
    name: str
    worker_id: str
    gpu_class: str
    node: str
    created_by: str | None
    expires_at: str | None
    last_used_at: str | None
    links: dict[str, str]
    created_at: str


class NewWorkerKey(WorkerKey):
    secret: str | None
    """None where the answer to the first try was lost: make another key."""
