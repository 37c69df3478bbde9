"""The ledger protocol: how a trainer claims, updates and ends a run.

A trainer uses only this protocol, never the database. ``services.store`` implements it with
PostgreSQL, and ``services.remote`` over HTTPS for a machine that has no database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from services.domain.starts import StoredStart
from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that can hold one run at a time."""

    worker_id: str
    kind: str
    """``trainer`` or ``cache_builder``."""
    gpu_class: str
    version: str
    node: str = ""
    """Its machine. Offers name a worker with a node, and it listens on a queue of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFiles:
    """A folder in the object store; its manifest lists the files and is written last."""

    key_prefix: str
    """Ends in ``/``; the manifest is stored at ``<key_prefix>manifest.json``."""
    manifest_sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCheckpoint:
    step: int
    files: StoredFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedShard:
    """A stored cache shard: a file of several cache entries."""

    digest: str
    kind: str
    """``latents``, ``text`` or ``masks``."""
    manifest_sha256: str
    size_bytes: int
    entries: dict[str, int] = field(default_factory=dict)
    """Digest of each entry → size of its tensors in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureScore:
    """What a CLIP model says of a picture."""

    clip_score: float
    """How well it fits its prompt, from -1 to 1."""
    similarity: float | None
    """To the nearest training picture; None where it was not measured."""
    clip_model_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A run that this worker now holds, with everything that is needed to train it."""

    run_id: str
    tenant_id: str
    fence: int
    plan: dict[str, Any]
    """``trainer_core.config.plan.Plan`` as JSON."""
    data_index: dict[str, Any]
    """``trainer_core.data.index.DataIndex`` as JSON."""
    base_model: str
    """Name on the operator's list of base models."""
    shards: tuple[CachedShard, ...]
    checkpoint: StoredCheckpoint | None
    """The newest committed checkpoint; the attempt resumes there."""
    older_checkpoints: tuple[StoredCheckpoint, ...] = ()
    """The newest first; for an attempt that finds the newest one damaged."""
    budget_s: float | None = None
    """As in ``Renewal``."""
    start: StoredStart | None = None
    """The adapter that the run starts from; with a checkpoint it is not needed any more."""
    pictures: tuple[str, ...] = ()
    """Paths of the stored pictures of these checkpoints' weights, or without a checkpoint those of
    step 0; the attempt need not make them again."""
    picture_scores: dict[str, PictureScore] = field(default_factory=dict)
    """Path of each of them that has a CLIP score → its score."""


class RequestedAction(StrEnum):
    """The action that the service requests of a run's holder; returned by each renewal."""

    RUN = "run"
    PAUSE = "pause"
    """The run is to be paused: write a checkpoint and hand the run back."""
    CANCEL = "cancel"
    """The run is canceled: write a checkpoint, in limited time, and hand the run back."""
    CANCEL_NOW = "cancel_now"
    """The run is canceled: hand it back at once."""
    STOP = "stop"
    """The run has to make room: write a checkpoint and hand the run back; it is queued again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """The answer to a renewal."""

    requested: RequestedAction
    budget_s: float | None = None
    """Seconds that may still be charged to the run from now on; None where nothing limits them.
    The holder renews again when they are used up, and is asked to pause then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildEvent:
    """An event of the training process, to be stored with the run."""

    type: str
    step: int
    data: dict[str, Any]
    number: int | None = None
    """The event's number in the child's event file, from 1; None for an event of the supervisor.
    The ledger skips numbers that it has stored, and an event without one that is equal to one of
    the newest, so a batch may be sent twice."""


LOG_PIECE_BYTES: Final = 64 << 10
"""The longest piece of a log."""
LOG_FIRST_BYTES: Final = 1 << 20
LOG_NEWEST_BYTES: Final = 3 << 20
"""What is kept of an attempt's output: its first bytes and its newest ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """A piece of what the training process of an attempt printed."""

    start_byte: int
    """Its place in the output of the attempt, from 0."""
    num_bytes: int
    """Its length there, at most LOG_PIECE_BYTES. The text may be shorter: secrets are removed."""
    text: str


class Outcome(StrEnum):
    """How an attempt without a result ended."""

    STOPPED = "stopped"
    """On request (SIGTERM, pause, cancel), after a checkpoint; this is not a failure."""
    FAILED = "failed"


class LedgerDownError(Exception):
    """The ledger cannot be reached, or the connection was lost: the write may have happened."""


class Ledger(Protocol):
    """Every write after ``claim`` carries the fence that the claim returned.

    Every method may raise LedgerDownError. All methods but ``claim`` are idempotent: they may then
    be called again with the same arguments. A write whose fence no longer holds the run raises
    LeaseLostError and changes nothing.
    """

    def register(
        self,
        worker: Worker,
        *,
        draining: bool,
        run_id: str | None,
        drain_reason: Failure | None = None,
    ) -> None:
        """Register the worker, or refresh its heartbeat.

        Args:
            drain_reason: why it cannot work, for the operator; None where it was asked to stop.
        """

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Claim a queued run whose shards are all stored; None where it cannot be claimed.

        Do not repeat a claim that raised LedgerDownError. The dispatcher queues the run again when
        the lease has expired.
        """

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> Renewal:
        """Extend the lease; raises LeaseLostError where the run is no longer held.

        A run that has reached one of its limits is paused from then on.
        """

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store the child's events in order, and update the run's stage and step."""

    def log(self, run_id: str, fence: int, printed: Printed) -> None:
        """Store a piece of the attempt's output, unless one with this ``start_byte`` is stored."""

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """Record a stored checkpoint, from which the run resumes from now on."""

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """End the run as ``succeeded``, or ``canceled`` where that was requested, with this result.

        Its publication is created in the same transaction.
        """

    def rebuild_shard(self, run_id: str, fence: int, shard: CachedShard) -> bool:
        """Have a shard built again whose stored content is damaged.

        False, and no change, where it no longer has this manifest or is being built already.
        """

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """End the attempt without a result. The run is queued again, paused, canceled or failed."""
