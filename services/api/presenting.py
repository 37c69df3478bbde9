"""Rows as the shapes that tenants see."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from services.api import shapes
from services.store.datasets import Dataset
from services.store.publications import Publication
from services.store.run_rows import Run
from services.store.runs import Attempt, Event

R = TypeVar("R")
S = TypeVar("S")


def page_of(
    rows: Sequence[R], limit: int, shape: Callable[[R], S], cursor: Callable[[R], str]
) -> shapes.Page[S]:
    """A page of ``limit`` out of rows that were asked for with one more."""
    shown = rows[:limit]
    has_more = len(rows) > limit
    return shapes.Page(
        data=[shape(row) for row in shown],
        has_more=has_more,
        next_cursor=cursor(shown[-1]) if has_more else None,
    )


def dataset_shape(row: Dataset) -> shapes.Dataset:
    here = f"/v1/datasets/{row.dataset_id}"
    return shapes.Dataset(
        id=row.dataset_id,
        name=row.name,
        status=_known(row.status),
        errors=[shapes.ProblemItem(**error) for error in row.errors],
        links={"self": here, "uploads": "/v1/uploads", "complete": f"{here}:complete"},
        created_at=_utc(row.created_at),
        updated_at=_utc(row.updated_at),
    )


def run_shape(row: Run, attempts: Sequence[Attempt]) -> shapes.Run:
    here = f"/v1/runs/{row.run_id}"
    links = {
        "self": here,
        "events": f"{here}/events",
        "checkpoints": f"{here}/checkpoints",
        "cancel": f"{here}:cancel",
        "publications": f"/v1/publications?run_id={row.run_id}",
    }
    if row.result_manifest_sha256 is not None:
        links["result"] = f"{here}/result"
    return shapes.Run(
        id=row.run_id,
        status=_known(row.status),
        stage=row.stage,
        status_reason=_failure(row.status_reason),
        step=row.step,
        max_steps=row.max_steps,
        checkpoint_step=row.checkpoint_step,
        base_model=row.base_model,
        gpu_class=row.gpu_class,
        plan=row.plan,
        plan_digest=row.plan_digest,
        warnings=row.warnings,
        datasets=row.datasets,
        metadata=row.metadata,
        attempts=[attempt_shape(each) for each in attempts],
        links=links,
        version=row.version,
        created_at=_utc(row.created_at),
        updated_at=_utc(row.updated_at),
        started_at=_utc_or_none(row.started_at),
        finished_at=_utc_or_none(row.finished_at),
    )


def attempt_shape(row: Attempt) -> shapes.Attempt:
    return shapes.Attempt(
        id=row.attempt_id,
        fence=row.fence,
        from_step=row.from_step,
        last_step=row.last_step,
        outcome=row.outcome,
        reason=_failure(row.reason),
        started_at=_utc(row.started_at),
        ended_at=_utc_or_none(row.ended_at),
    )


def event_shape(row: Event) -> shapes.Event:
    return shapes.Event(
        id=row.seq, type=row.type, step=row.step, data=row.data, created_at=_utc(row.created_at)
    )


def publication_shape(row: Publication) -> shapes.Publication:
    return shapes.Publication(
        id=row.publication_id,
        run_id=row.run_id,
        target=row.target,
        status=_known(row.status),
        attempts=row.attempts,
        location=row.location,
        revision=row.revision,
        error=_failure(row.error),
        links={"self": f"/v1/publications/{row.publication_id}", "run": f"/v1/runs/{row.run_id}"},
        created_at=_utc(row.created_at),
        updated_at=_utc(row.updated_at),
    )


def _known(status: str) -> Any:
    """The schema's CHECK and the shape list the same words; the shape checks it again."""
    return status


def _failure(body: dict[str, Any] | None) -> shapes.Failure | None:
    return None if body is None else shapes.Failure(**body)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _utc_or_none(moment: datetime | None) -> datetime | None:
    return None if moment is None else _utc(moment)
