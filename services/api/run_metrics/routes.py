"""/v1/runs/{run_id}/metrics: curves of a run, reduced by the database."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from services.api.paging import DIGITS
from services.api.routing import TenantRoute
from services.api.run_metrics.shapes import ClipScores, EvaluationLoss, Metrics, MetricSeries
from services.api.runs.lookup import find_run
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.store import run_metrics
from services.store.run_metrics import Bin, stride

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)

Names = Annotated[
    str | None,
    Query(
        pattern=r"^[A-Za-z0-9_]{1,64}(,[A-Za-z0-9_]{1,64}){0,9}$",
        description="At most ten metrics, with commas between them. None: only their names.",
    ),
]
Points = Annotated[
    int, Field(ge=1, le=1000), DIGITS, Query(description="At most so many bins of steps.")
]


@router.get("/runs/{run_id}/metrics", openapi_extra=needs("runs:read", NotFoundError))
def get_metrics(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    names: Names = None,
    points: Points = 500,
) -> Metrics:
    """Mean, least and greatest value of each bin. A step that was taken again counts once."""
    wanted = list(dict.fromkeys(names.split(","))) if names else []
    with service.database.transaction(tenant_id) as conn:
        newest_seq = find_run(conn, tenant_id, run_id).event_seq
        known = run_metrics.names(conn, tenant_id, run_id, newest_seq=newest_seq)
        bins = run_metrics.bins(
            conn, tenant_id, run_id, wanted, newest_seq=newest_seq, points=points
        )
        measured = run_metrics.evaluations(conn, tenant_id, run_id)
        scored = run_metrics.clip_scores(conn, tenant_id, run_id)
    return Metrics(
        run_id=run_id,
        names=known,
        every_nth_event=stride(newest_seq),
        series=[_series(name, [each for each in bins if each.name == name]) for name in wanted],
        evaluations=[EvaluationLoss(**asdict(each)) for each in measured],
        clip_scores=[ClipScores(**asdict(each)) for each in scored],
    )


def _series(name: str, bins: list[Bin]) -> MetricSeries:
    return MetricSeries(
        name=name,
        first_step=[each.first_step for each in bins],
        last_step=[each.last_step for each in bins],
        count=[each.count for each in bins],
        mean=[each.mean for each in bins],
        min=[each.min for each in bins],
        max=[each.max for each in bins],
    )
