"""What operators send and see as JSON."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from services.api.shapes import LEFT_OUT, WHOLE, Body, Failure, Moment, Name, Shape
from services.api.usage.shapes import Quota

Weight = Annotated[float, Field(ge=0.001, le=1000)]
Count = Annotated[int, Field(ge=0, le=999_999_999), WHOLE]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
"""ISO 4217."""
ClassName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class QuotaChanges(Body):
    """Limits to set; null brings the service's default back."""

    queued_runs: Count | None = None
    concurrent_runs: Count | None = None
    gpu_hours: Annotated[float, Field(ge=0, le=1e12)] | None = None
    storage_bytes: Annotated[int, Field(ge=0, le=10**18), WHOLE] | None = None
    uploads: Count | None = None
    requests_per_minute: Count | None = None
    """0 refuses every request of the tenant; operators' requests do not count."""


class TenantRequest(Body):
    """A new tenant."""

    name: Name
    weight: Weight = 1.0
    quotas: QuotaChanges = QuotaChanges()


class TenantChanges(Body):
    """What changes; the rest stays."""

    name: Name = LEFT_OUT
    weight: Weight = LEFT_OUT
    quotas: QuotaChanges = LEFT_OUT


class TenantSummary(Shape):
    """A tenant in a list."""

    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    weight: float
    """Its part of the GPU time, next to the weights of others."""
    links: dict[str, str]
    created_at: datetime


class Tenant(TenantSummary):
    """A tenant, with its quotas."""

    quotas: list[Quota]


class PriceRequest(Body):
    """The price of a GPU class."""

    price_micros_per_hour: Annotated[int, Field(ge=0, le=10**12), WHOLE]
    """Of one GPU, in millionths of the currency."""
    currency: Currency = "USD"
    memory_bytes: Annotated[int, Field(ge=1, le=10**15), WHOLE] | None = None
    """Of one GPU, for estimates; null leaves it as it is."""
    capability: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")] | None = None
    """Its compute capability, such as 9.0; null leaves it as it is."""


class GpuClass(Shape):
    """A class of GPUs: its price, and what a worker of it has."""

    id: str
    object: Literal["gpu_class"] = "gpu_class"
    price_micros_per_hour: int
    currency: str
    memory_bytes: int | None
    """Of one GPU; null where nobody said."""
    capability: str | None


class Worker(Shape):
    """A process that takes work; it is shown for a day after its last heartbeat."""

    id: str
    object: Literal["worker"] = "worker"
    kind: str
    gpu_class: str
    version: str
    node: str
    draining: bool
    """It takes no more work."""
    drain_reason: Failure | None
    """Why it cannot work; null where it was asked to stop, or works."""
    run_id: str | None
    started_at: datetime
    heartbeat_at: datetime


class WorkerKeyRequest(Body):
    """A key for one worker that joins over HTTPS; what it says cannot be changed later."""

    name: Name
    gpu_class: ClassName
    node: Name | None = None
    """The machine, for workers that share one. Null: a machine of its own, called ``name``."""
    expires_at: Moment | None = None
    """Null: never."""


class WorkerKey(Shape):
    """A remote worker's key, without its secret."""

    id: str
    object: Literal["worker_key"] = "worker_key"
    name: str
    worker_id: str
    gpu_class: str
    node: str
    created_by: str | None
    """An operator's key; null: made with `reverie admin`."""
    expires_at: datetime | None
    last_used_at: datetime | None
    """A minute old at most."""
    links: dict[str, str]
    created_at: datetime


class NewWorkerKey(WorkerKey):
    """A key just made."""

    secret: str | None
    """The key itself, shown this once. Null in a replay of the request: make another key then."""


def given(body: Body) -> dict[str, Any]:
    """The fields that the request has."""
    return body.model_dump(exclude_unset=True)
