"""What operators see and send, as JSON."""

from typing import Literal, NotRequired, TypedDict

from services.client.shapes import Failure
from services.client.tenant_shapes import Quota


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
