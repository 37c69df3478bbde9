"""Rows of batches as the shapes that tenants see."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.api.batches.shapes import (
    Batch,
    BatchRow,
    BatchSummary,
    ComparedRun,
    Comparison,
    Evaluation,
)
from services.api.shapes import failure_shape, in_utc, known_status
from services.store.batches import Batch as BatchRecord
from services.store.batches import BatchRun, Share
from services.store.batches import BatchSummary as SummaryRecord

Currencies = Mapping[str, str | None]
"""GPU class → currency of its price."""


def batch_shape(
    batch: BatchRecord, runs: Sequence[BatchRun], shares: Sequence[Share], currencies: Currencies
) -> Batch:
    return Batch(
        **_facts(batch, shares, currencies),
        sweep=batch.sweep,
        runs=[BatchRow(row=run.row, run_id=run.run_id, options=run.options) for run in runs],
        refused=batch.refused,
    )


def summary_shape(
    batch: SummaryRecord, shares: Sequence[Share], currencies: Currencies
) -> BatchSummary:
    return BatchSummary(**_facts(batch, shares, currencies))


def _facts(
    batch: BatchRecord | SummaryRecord, shares: Sequence[Share], currencies: Currencies
) -> dict[str, Any]:
    """``shares``: of this batch or of several."""
    own = [share for share in shares if share.batch_id == batch.batch_id]
    counts: dict[str, int] = {}
    for share in own:
        counts[share.status] = counts.get(share.status, 0) + share.num_runs
    num_runs = sum(counts.values())
    return {
        "id": batch.batch_id,
        "name": batch.name,
        "num_runs": num_runs,
        "num_refused": batch.num_rows - num_runs,
        "counts": counts,
        "step": sum(share.step for share in own),
        "max_steps": sum(share.max_steps for share in own),
        "charged_s": sum(share.charged_s for share in own),
        "cost_micros": sum(share.cost_micros for share in own),
        "currency": next((currencies.get(share.gpu_class) for share in own), None),
        "links": _links(batch.batch_id),
        "created_at": in_utc(batch.created_at),
    }


def _links(batch_id: str) -> dict[str, str]:
    here = f"/v1/batches/{batch_id}"
    return {
        "self": here,
        "compare": f"{here}/compare",
        "cancel": f"{here}:cancel",
        "runs": f"/v1/runs?batch_id={batch_id}",
    }


def comparison_shape(batch_id: str, runs: Sequence[BatchRun], currencies: Currencies) -> Comparison:
    return Comparison(
        batch_id=batch_id,
        options=list(dict.fromkeys(name for run in runs for name in run.options)),
        runs=[
            ComparedRun(
                row=run.row,
                run_id=run.run_id,
                options=run.options,
                status=known_status(run.status),
                stage=run.stage,
                status_reason=failure_shape(run.status_reason),
                step=run.step,
                max_steps=run.max_steps,
                loss=run.loss,
                loss_step=run.loss_step,
                best_loss=run.best_loss,
                best_loss_step=run.best_loss_step,
                evaluation=None if run.evaluation is None else Evaluation(**run.evaluation),
                charged_s=run.charged_s,
                cost_micros=run.cost_micros,
                currency=currencies.get(run.gpu_class),
            )
            for run in runs
        ],
    )
