"""What remote workers send and get as JSON: the ledger's types, with limits."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from services.api.shapes import WHOLE, Body, JsonObject, Shape, Text
from services.domain import ledger
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

_MOST_EVENTS = 1000
_LARGEST_FILE_BYTES = 5 << 30
"""What S3 takes in one PUT."""

Fence = Annotated[int, Field(ge=1, le=2**62), WHOLE]
Step = Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
SizeBytes = Annotated[int, Field(ge=0, le=2**62), WHOLE]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Key = Annotated[Text, Field(min_length=1, max_length=1024)]
LeaseS = Annotated[float, Field(gt=0, le=86_400)]


class FailureBody(Body):
    """Why something failed."""

    code: Annotated[str, Field(pattern="^[a-z0-9_]{1,64}$")]
    category: Literal["user", "quota", "capacity", "infra", "platform"]
    message: Annotated[Text, Field(max_length=4000)]
    retryable: bool

    def value(self) -> Failure:
        return Failure(
            code=self.code,
            category=Category(self.category),
            message=self.message,
            retryable=self.retryable,
        )


class HeartbeatRequest(Body):
    version: Annotated[Text, Field(max_length=64)]
    draining: bool
    drain_reason: FailureBody | None = None


class ClaimRequest(Body):
    lease_s: LeaseS
    claim_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """Made by the worker for this claim; it says which requests are the same."""


class HeldRequest(Body):
    """Of every request about a claimed run: the fence that the claim returned."""

    fence: Fence


class RenewRequest(HeldRequest):
    lease_s: LeaseS


class EventBody(Body):
    type: Annotated[str, Field(pattern="^[a-z0-9_]{1,64}$")]
    """Of the training process: without a dot, which the service's own have."""
    step: Step
    data: JsonObject
    number: Annotated[int, Field(ge=1, le=2**62), WHOLE] | None = None


class EventsRequest(HeldRequest):
    events: Annotated[list[EventBody], Field(min_length=1, max_length=_MOST_EVENTS)]

    def values(self) -> list[ledger.ChildEvent]:
        return [
            ledger.ChildEvent(type=each.type, step=each.step, data=each.data, number=each.number)
            for each in self.events
        ]


class LogRequest(HeldRequest):
    start_byte: SizeBytes
    num_bytes: Annotated[int, Field(ge=1, le=ledger.LOG_PIECE_BYTES), WHOLE]
    text: Annotated[Text, Field(max_length=2 * ledger.LOG_PIECE_BYTES)]
    """Secrets and names of places are replaced by other words, so it may be longer."""

    def value(self) -> ledger.Printed:
        return ledger.Printed(start_byte=self.start_byte, num_bytes=self.num_bytes, text=self.text)


class FilesBody(Body):
    key_prefix: Key
    manifest_sha256: Sha256
    size_bytes: SizeBytes

    def value(self) -> ledger.StoredFiles:
        return ledger.StoredFiles(
            key_prefix=self.key_prefix,
            manifest_sha256=self.manifest_sha256,
            size_bytes=self.size_bytes,
        )


class CommitRequest(HeldRequest):
    """A checkpoint or a result, stored at this step."""

    step: Step
    files: FilesBody


class RebuildRequest(HeldRequest):
    digest: Sha256
    kind: Annotated[str, Field(pattern="^[a-z]{1,32}$")]
    manifest_sha256: Sha256
    size_bytes: SizeBytes

    def value(self) -> ledger.CachedShard:
        return ledger.CachedShard(
            digest=self.digest,
            kind=self.kind,
            manifest_sha256=self.manifest_sha256,
            size_bytes=self.size_bytes,
        )


class HandBackRequest(HeldRequest):
    outcome: Literal["stopped", "failed"]
    failure: FailureBody | None = None


class ReadRequest(HeldRequest):
    key: Key


class WriteRequest(HeldRequest):
    key: Key
    size_bytes: Annotated[int, Field(ge=0, le=_LARGEST_FILE_BYTES), WHOLE]
    sha256: Sha256


class ManifestRequest(HeldRequest):
    key: Key
    text: Annotated[str, Field(max_length=3 << 20)]


class Identity(Shape):
    """What the key fixes, and the service's times in seconds."""

    worker_id: str
    gpu_class: str
    node: str
    protocol: int
    """As in ``services.domain.worker_protocol``."""
    version: str
    """Of the service."""
    now: datetime
    lease_s: float
    renew_s: float
    orphan_s: float
    cancel_s: float
    heartbeat_s: float


class Offered(Shape):
    run_id: str | None
    """The run that this worker may claim; null: none at the moment."""
    traceparent: str | None
    """The run's trace; null: it has none."""


class Rebuilt(Shape):
    is_first: bool
    """False: it has another manifest by now, or is being built already."""


class SignedUrl(Shape):
    """A request that needs no key, for a few minutes."""

    method: str
    url: str
    headers: dict[str, str]


class Committed(Shape):
    is_same: bool
    """Whether the object now has this text; false: another one was there before."""
