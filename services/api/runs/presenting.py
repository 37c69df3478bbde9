"""Rows of runs and attempts as the shapes that tenants see."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from services.api.runs.limits import HOUR_S
from services.api.runs.notices import notices_shape
from services.api.runs.shapes import Attempt, Estimate, Relay, Run, RunSummary, Waiting
from services.api.shapes import failure_shape, in_utc, in_utc_or_none
from services.domain.priorities import name_of
from services.domain.waiting import Waiting as RunWaiting
from services.store.metric_relays import MetricRelay
from services.store.run_rows import Run as RunRow
from services.store.runs import Attempt as AttemptRow


def run_shape(
    row: RunRow,
    attempts: Sequence[AttemptRow],
    *,
    notices: Sequence[dict[str, Any]],
    waiting: RunWaiting | None,
    currency: str | None,
    estimate: Estimate | None,
    relay: MetricRelay | None,
) -> Run:
    return Run(
        **_facts(row, waiting, currency),
        warnings=row.warnings,
        notices=notices_shape(notices),
        relay=None if relay is None else relay_shape(relay),
        attempts=[attempt_shape(each) for each in attempts],
        estimate=estimate,
    )


def summary_shape(row: RunRow, *, waiting: RunWaiting | None, currency: str | None) -> RunSummary:
    return RunSummary(**_facts(row, waiting, currency))


def relay_shape(row: MetricRelay) -> Relay:
    return Relay(
        secret=row.secret,
        status=row.status,
        step=row.step,
        url=row.url,
        error=failure_shape(row.error),
    )


def waiting_shape(waiting: RunWaiting) -> Waiting:
    return Waiting(**asdict(waiting))


def _facts(row: RunRow, waiting: RunWaiting | None, currency: str | None) -> dict[str, Any]:
    return {
        "id": row.run_id,
        "status": row.status,
        "stage": row.stage,
        "status_reason": failure_shape(row.status_reason),
        "waiting": None if waiting is None else waiting_shape(waiting),
        "step": row.step,
        "max_steps": row.max_steps,
        "checkpoint_step": row.checkpoint_step,
        "base_model": row.base_model,
        "gpu_class": row.gpu_class,
        "priority": name_of(row.priority),
        "charged_s": row.charged_s,
        "cost_micros": row.cost_micros,
        "currency": currency,
        "max_cost_micros": row.max_cost_micros,
        "max_gpu_hours": None if row.max_gpu_s is None else round(row.max_gpu_s / HOUR_S, 9),
        "deadline": in_utc_or_none(row.deadline),
        "parent_run_id": row.parent_run_id,
        "plan_digest": row.plan_digest,
        "datasets": row.datasets,
        "metadata": row.metadata,
        "batch_id": row.batch_id,
        "batch_row": row.batch_row,
        "links": _links(row),
        "version": row.version,
        "created_at": in_utc(row.created_at),
        "updated_at": in_utc(row.updated_at),
        "started_at": in_utc_or_none(row.started_at),
        "finished_at": in_utc_or_none(row.finished_at),
    }


def _links(row: RunRow) -> dict[str, str]:
    here = f"/v1/runs/{row.run_id}"
    links = {
        "self": here,
        "plan": f"{here}/plan",
        "events": f"{here}/events",
        "logs": f"{here}/logs",
        "metrics": f"{here}/metrics",
        "attempts": f"{here}/attempts",
        "samples": f"{here}/samples",
        "artifacts": f"{here}/artifacts",
        "checkpoints": f"{here}/checkpoints",
        "pause": f"{here}:pause",
        "resume": f"{here}:resume",
        "cancel": f"{here}:cancel",
        "clone": f"{here}:clone",
        "publications": f"/v1/publications?run_id={row.run_id}",
    }
    if row.batch_id is not None:
        links["batch"] = f"/v1/batches/{row.batch_id}"
    if row.result_manifest_sha256 is not None:
        links["result"] = f"{here}/result"
    return links


def attempt_shape(row: AttemptRow) -> Attempt:
    return Attempt(
        id=row.attempt_id,
        fence=row.fence,
        from_step=row.from_step,
        last_step=row.last_step,
        outcome=row.outcome,
        reason=failure_shape(row.reason),
        lost_steps=row.lost_steps,
        lost_s=row.lost_s,
        charged_s=row.charged_s,
        cost_micros=row.cost_micros,
        log_start_byte=row.log_start_byte,
        started_at=in_utc(row.started_at),
        ended_at=in_utc_or_none(row.ended_at),
    )
