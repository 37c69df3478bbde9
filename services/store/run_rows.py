"""The row of a run, shared by the tenant's view of it and the ledger's."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.domain.states import OVER, RunStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One row of ``runs``; see the schema for what each column means.

    Large documents are in ``run_documents``, so that a list of runs stays small.
    """

    run_id: str
    tenant_id: str
    plan_digest: str
    warnings: list[str]
    base_model: str
    datasets: dict[str, str]
    start_adapter: dict[str, Any] | None
    """``services.domain.starts.StoredStart`` as JSON; None: it starts from no adapter."""
    metadata: dict[str, Any]
    gpu_class: str
    priority: int
    status: str
    """A ``services.domain.states.RunStatus``."""
    stage: str | None
    status_reason: dict[str, Any] | None
    version: int
    event_seq: int
    fence: int
    worker_id: str | None
    lease_until: datetime | None
    offered_until: datetime | None
    ring_after: datetime | None
    attempts_without_progress: int
    """Failures of the run itself since its newest checkpoint."""
    infra_failures: int
    """Failures of the service since then."""
    dispatch_failures: int
    """Unexpected errors in a row while the dispatcher worked on this run."""
    step: int
    max_steps: int
    """0 until the data of a run is indexed whose length is in epochs."""
    work: dict[str, Any] | None
    """``trainer_core.config.plan.work.Work`` as JSON; None for runs of an older version."""
    parent_run_id: str | None
    """The run that it was cloned from."""
    checkpoint_step: int
    result_step: int | None
    result_key_prefix: str | None
    result_manifest_sha256: str | None
    result_size_bytes: int | None
    charged_s: float
    """GPU time that was charged, of all attempts."""
    cost_micros: int
    max_cost_micros: int | None
    max_gpu_s: float | None
    deadline: datetime | None
    must_stop: bool
    """The holder has to hand it back; it is queued again."""
    cancel_now: bool
    """Without a checkpoint; of a run that is being canceled."""
    batch_id: str | None
    batch_row: int | None
    """Its place in the batch, from 0."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_held(self) -> bool:
        """Whether an attempt holds it; its lease may have run out and wait for the sweep."""
        return self.lease_until is not None

    @property
    def is_limited(self) -> bool:
        limits = (self.max_cost_micros, self.max_gpu_s, self.deadline)
        return any(limit is not None for limit in limits)

    @property
    def is_over(self) -> bool:
        return RunStatus(self.status) in OVER
