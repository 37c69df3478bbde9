"""What a trainer may do to a run, and what can go wrong with that.

A trainer worker knows this protocol and no database. ``services.store`` implements it with
PostgreSQL; an implementation over HTTPS would let a rented machine work without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol

from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that can hold one run at a time."""

    worker_id: str
    kind: str
    """``trainer`` or ``cache_builder``."""
    gpu_class: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFiles:
    """A folder in the object store that its manifest closes."""

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
    """A cache shard that is stored; its manifest names the content."""

    digest: str
    kind: str
    """``latents`` or ``text``."""
    manifest_sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A run that this worker holds now, with everything needed to train it."""

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


class RequestedAction(StrEnum):
    """What the service requests of the holder of a run; the answer to each renewal."""

    RUN = "run"
    PAUSE = "pause"
    """Write a checkpoint and hand the run back: the tenant paused it."""
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildEvent:
    """One line of the training process's event file, to be stored with the run."""

    type: str
    step: int
    data: dict[str, Any]
    number: int | None = None
    """Place among the child's events, from 1. The ledger skips numbers that it has stored, so a
    batch may be sent twice. None for an event that the child did not write."""


class Outcome(StrEnum):
    """How an attempt that did not commit a result ended."""

    STOPPED = "stopped"
    """On request (SIGTERM, pause, cancel), after a checkpoint: nothing went wrong."""
    FAILED = "failed"


class LedgerDownError(Exception):
    """The ledger cannot be reached, or hung up midway: whether the write took place is unknown."""


class Ledger(Protocol):
    """Every write after ``claim`` carries the fence that the claim returned.

    Every method may raise LedgerDownError. All but ``claim`` may then be called again with the same
    arguments: what took place the first time is not done a second time. A write under a fence that
    no longer holds the run raises LeaseLostError and changes nothing.
    """

    def register(self, worker: Worker, *, draining: bool, run_id: str | None) -> None:
        """Make the worker known, or refresh its heartbeat."""

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Take a queued run whose shards are all stored; None where it cannot be had.

        A claim whose answer was lost is not repeated: the run is held by nobody then, and queued
        again when the lease has run out.
        """

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> RequestedAction:
        """Extend the lease; raises LeaseLostError where the run is no longer held."""

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store what the child reported, in order, and update the run's stage and step.

        Sent again, only events without a ``number`` are stored twice.
        """

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """From now on the run resumes here. Sent again, it changes nothing."""

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """The one commit point of a run: ``succeeded`` (``canceled`` where that was requested).

        Its publication is written in the same transaction. Sent again, it changes nothing.
        """

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """Give the run up under the same fence: queued again, or paused, canceled or failed.

        Sent again, it raises LeaseLostError and changes nothing: the first one ended the lease.
        """
