"""What an attempt works with: the trainer process, the run, and the lease on it."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.domain.ledger import Claim, Ledger, RequestedAction
from services.objects.port import ObjectStore
from services.trainer.lease import Lease, LeaseTimes
from services.workers.scratch import Scratch


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerContext:
    """The same for every attempt of a process."""

    ledger: Ledger
    objects: ObjectStore
    worker_id: str
    scratch: Scratch
    models_dir: Path
    scratch_bytes: int
    """Disk that the cache shards of one attempt may take."""
    times: LeaseTimes
    stall_s: float
    """A training process that reports no new event for this long counts as hung."""
    stopping: threading.Event
    """Set once this process is to end."""
    child_command: Sequence[str] = (sys.executable, "-m", "trainer_core")


@dataclass(slots=True)
class Assignment:
    """The run that this worker holds now, None between runs; read by the heartbeat."""

    run_id: str | None = field(default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRun:
    """A claimed run, for as long as its lease holds."""

    context: TrainerContext
    claim: Claim
    lease: Lease

    @property
    def from_step(self) -> int:
        """Steps that are done in the checkpoint that the attempt resumes from."""
        return 0 if self.claim.checkpoint is None else self.claim.checkpoint.step

    def must_stop(self) -> bool:
        """Whether this worker is to end, or the service requests a pause or a cancel."""
        return self.context.stopping.is_set() or self.lease.requested is not RequestedAction.RUN
