"""What an attempt needs: the trainer process's context, the claimed run, and its lease."""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.domain.ledger import CachedShard, Claim, Ledger, RequestedAction
from services.objects.port import AttemptObjects
from services.trainer.lease import Lease, LeaseTimes, StoppedError
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from trainer_core.process.node_cache import NodeCache

TRAINING_PROGRAM: Final = (sys.executable, "-m", "trainer_core")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerContext:
    """What all attempts of a trainer process share."""

    ledger: Ledger
    objects: AttemptObjects
    delete_shard: Callable[[str, CachedShard], None]
    """Deletes the damaged shard of a tenant from the store, once the ledger has it built again."""
    worker_id: str
    scratch: Scratch
    health: WorkerHealth
    models_dir: Path
    scratch_bytes: int
    """Disk space for one attempt."""
    needs_gpu: bool
    """The training process fails where it finds no GPU, instead of training on the CPU."""
    node_cache: NodeCache | None
    times: LeaseTimes
    stall_s: float
    """A training process counts as hung after this long without an event, or without a step."""
    start_stall_s: float
    """The same before its first step."""
    stopping: threading.Event
    """Set when this process was asked to stop."""
    child_command: Sequence[str] = TRAINING_PROGRAM


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
        """The step of the run's newest checkpoint; 0 without one.

        The attempt resumes from an older one where the newest is damaged.
        """
        return 0 if self.claim.checkpoint is None else self.claim.checkpoint.step

    def must_stop(self) -> bool:
        """Whether this worker was asked to stop, or the run to pause or cancel."""
        return self.context.stopping.is_set() or self.lease.requested is not RequestedAction.RUN

    def check_wanted(self) -> None:
        """As ``Lease.check``; raises StoppedError where ``must_stop``."""
        self.lease.check()
        if self.must_stop():
            raise StoppedError
