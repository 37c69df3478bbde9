"""The estimate of a run: what like runs took, at the price of its GPU class."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.api.runs.shapes import Basis, Estimate, Spread
from services.domain import estimates
from services.domain.encoding_pace import encoding_s
from services.domain.estimates import Task, rest_of_run
from services.domain.states import RunStatus, Stage
from services.store import gpu_classes, measured, run_events, workers
from services.store.database import Connection
from services.store.gpu_classes import KnownClass
from services.store.run_rows import Run as RunRow

_S_PER_HOUR: Final = 3600


def estimate_of(
    conn: Connection, task: Task, *, gpu_class: KnownClass, base_model: str
) -> Estimate | None:
    """The estimate of a task; None where nothing like it was measured."""
    found = estimates.estimate(task, measured.attempts(conn, gpu_class.gpu_class, base_model))
    if found is None:
        return None
    price = gpu_class.price_micros_per_hour
    cost = None
    if price is not None:
        cost = _spread(found.charged_s, price / _S_PER_HOUR, digits=0)
    return Estimate(
        seconds=_spread(found.seconds),
        charged_s=_spread(found.charged_s),
        cost_micros=cost,
        currency=None if cost is None else gpu_class.currency,
        basis=Basis(
            num_attempts=found.basis.num_attempts,
            likeness=found.basis.likeness,
            own_steps=found.basis.own_steps,
        ),
    )


def estimate_of_run(conn: Connection, row: RunRow) -> Estimate | None:
    """What is left of a stored run; None where it is over, or nothing like it was measured.

    None too while the number of its steps is not known.
    """
    if row.is_over or row.work is None or row.status == RunStatus.CANCELING or not row.max_steps:
        return None
    gpu_class = gpu_classes.find(conn, row.gpu_class)
    return estimate_of(conn, _left(conn, row), gpu_class=gpu_class, base_model=row.base_model)


def encoding_of(
    conn: Connection, base_model: str, units: Mapping[str, float] | None, *, silence: timedelta
) -> Spread | None:
    """Seconds until missing shards are encoded; None where that cannot be told.

    Args:
        units: kind of shard → what is missing; None where that is not known.
        silence: a builder without a heartbeat for this long is not counted.
    """
    if units is None:
        return None
    found = encoding_s(
        units,
        measured.encoding(conn, base_model),
        builders=workers.cache_builders(conn, silence=silence),
    )
    return None if found is None else _spread(found)


def _left(conn: Connection, row: RunRow) -> Task:
    """What is left of a run; one that trains goes on at its own pace."""
    assert row.work is not None
    pace = None
    if row.is_held and row.stage in (Stage.TRAINING, Stage.CHECKPOINTING):
        pace = run_events.newest_pace(conn, row.tenant_id, row.run_id, row.fence)
    return rest_of_run(
        row.work,
        row.max_steps,
        step=row.step,
        own_step_s=None if pace is None else pace.step_s,
        own_steps=0 if pace is None else pace.steps,
    )


def _spread(found: estimates.Spread, factor: float = 1.0, digits: int = 3) -> Spread:
    return Spread(p50=round(found.p50 * factor, digits), p90=round(found.p90 * factor, digits))
