"""What a trainer may do to a run: the one door between a GPU box and the truth.

``services.store`` implements it with PostgreSQL; a rented box will speak it over HTTPS. Every write
after ``claim`` carries the fence that the claim returned; a write under an older fence raises
LeaseLostError and changes nothing.
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
    """Ends in ``/``; the manifest lies at ``<key_prefix>manifest.json``."""
    manifest_sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCheckpoint:
    step: int
    files: StoredFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedShard:
    """A cache shard that stands: its manifest names the content."""

    digest: str
    kind: str
    """``latents`` or ``text``."""
    manifest_sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A run that is now ours, with everything needed to train it."""

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
    """The newest committed checkpoint; the attempt goes on from there."""


class Wish(StrEnum):
    """What the service wants of the holder, told at each renewal."""

    RUN = "run"
    PAUSE = "pause"
    """Reach a checkpoint and hand the run back: the tenant paused it."""
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildEvent:
    """One line of the training process's event file, to be stored with the run."""

    type: str
    step: int
    data: dict[str, Any]
    number: int | None = None
    """Place among the child's events, from 1: what is stored up to it is not stored again, so a
    batch may be sent twice. None for what the child did not write."""


class Outcome(StrEnum):
    """How an attempt that did not commit a result ended."""

    STOPPED = "stopped"
    """On request (SIGTERM, pause, cancel), after a checkpoint: nothing went wrong."""
    FAILED = "failed"


class Ledger(Protocol):
    def register(self, worker: Worker, *, draining: bool, run_id: str | None) -> None:
        """Make the worker known, or refresh its heartbeat."""

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Take a queued run whose shards stand; None where it is not to be had."""

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> Wish:
        """Extend the lease; raises LeaseLostError when the run is no longer ours."""

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store what the child reported, in order; moves the run's stage and step along."""

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """From now on a resume starts here."""

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """The one commit point of a run: ``succeeded`` (``canceled`` where that was asked for),
        with its publication written in the same transaction."""

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """Give the run up under the same fence: queued again, or paused, canceled or failed."""
