"""/v1/runs/{run_id}: pause, resume, cancel, and change of priority, limits and metadata."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter

from services.api.auditing import AuthorDep
from services.api.routing import TenantRoute
from services.api.runs.limits import about_limits, find_known_limits, gpu_seconds
from services.api.runs.lookup import CheckedRunId, lock_run
from services.api.runs.shapes import CancelRequest, Run, RunPatch
from services.api.runs.showing import shown_run
from services.api.scopes import needs
from services.api.service import Service, ServiceDep, TenantDep
from services.api.shapes import RunId
from services.api.validators import ExpectedVersion, ExpectedVersionDep
from services.domain.audit import Author, Facts
from services.domain.errors import (
    IllegalTransitionError,
    InvalidRequestError,
    LimitReachedError,
    NotFoundError,
    RunOverError,
)
from services.domain.priorities import number_of
from services.store import audit, run_changes, run_control
from services.store.database import Connection
from services.store.run_changes import RunChanges
from services.store.run_rows import Run as RunRow

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)


@router.post(
    "/runs/{run_id}:pause",
    status_code=202,
    openapi_extra=needs("runs:write", NotFoundError, IllegalTransitionError),
)
def pause_run(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    expected: ExpectedVersionDep,
) -> Run:
    """202 and the run, pausing or paused; a run that trains stores a checkpoint first.

    409 where it is over or canceled. A run that takes its last step meanwhile succeeds.
    """
    with service.database.transaction(tenant_id) as conn:
        before = _lock(conn, tenant_id, run_id, expected)
        run = run_control.pause(conn, tenant_id, run_id)
        return _shown(service, conn, before, run, author=author, action="run.paused")


@router.post(
    "/runs/{run_id}:resume",
    status_code=202,
    openapi_extra=needs("runs:write", NotFoundError, IllegalTransitionError, LimitReachedError),
)
def resume_run(
    run_id: RunId,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    expected: ExpectedVersionDep,
) -> Run:
    """202 and the run, which waits for a worker again; one that is still pausing goes on.

    409 where it is over or canceled, and ``limit_reached`` until the limit that it names is raised.
    """
    with service.database.transaction(tenant_id) as conn:
        before = _lock(conn, tenant_id, run_id, expected)
        run = run_control.resume(conn, tenant_id, run_id)
        return _shown(service, conn, before, run, author=author, action="run.resumed")


@router.post(
    "/runs/{run_id}:cancel",
    status_code=202,
    openapi_extra=needs("runs:write", NotFoundError, IllegalTransitionError),
)
def cancel_run(
    run_id: RunId,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    expected: ExpectedVersionDep,
    body: CancelRequest | None = None,
) -> Run:
    """202 and the run, canceling or canceled; 409 where it succeeded or failed before.

    A run that trains stores a checkpoint first, unless ``now`` is true.
    """
    with service.database.transaction(tenant_id) as conn:
        before = _lock(conn, tenant_id, run_id, expected)
        now = body is not None and body.now
        run = run_control.cancel(conn, tenant_id, run_id, now=now)
        return _shown(service, conn, before, run, author=author, action="run.canceled")


_COLUMNS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "priority": ("priority", lambda given: number_of(given or "normal")),
    "max_cost_micros": ("max_cost_micros", lambda given: given),
    "max_gpu_hours": ("max_gpu_s", gpu_seconds),
    "deadline": ("deadline", lambda given: given),
}
"""Field of the patch → column, and the column's value of the field's."""


@router.patch("/runs/{run_id}", openapi_extra=needs("runs:write", NotFoundError, RunOverError))
def change_run(
    run_id: CheckedRunId,
    body: RunPatch,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
    expected: ExpectedVersionDep,
) -> Run:
    """A merge patch: 200 and the changed run; 409 ``run_over`` unless only metadata is changed.

    A run that has used up a new limit already is paused.
    """
    given = body.model_fields_set & _COLUMNS.keys()
    columns = {_COLUMNS[name][0]: _COLUMNS[name][1](getattr(body, name)) for name in given}
    changes = RunChanges(
        values=columns,
        metadata=body.metadata or {},
        clears_metadata="metadata" in body.model_fields_set and body.metadata is None,
    )
    with service.database.transaction(tenant_id) as conn:
        before = _lock(conn, tenant_id, run_id, expected)
        problems = list(
            about_limits(
                find_known_limits(conn),
                before.gpu_class,
                max_cost_micros=body.max_cost_micros,
                deadline=body.deadline,
            )
        )
        if problems:
            raise InvalidRequestError(problems)
        run = run_changes.change(conn, tenant_id, run_id, changes)
        data: Facts = {"changed": sorted(body.model_fields_set)}
        return _shown(service, conn, before, run, author=author, action="run.changed", data=data)


def _lock(conn: Connection, tenant_id: str, run_id: str, expected: ExpectedVersion) -> RunRow:
    """The run, which nobody else changes until the commit and which has the expected version."""
    run = lock_run(conn, tenant_id, run_id)
    expected.check(run.version)
    return run


def _shown(
    service: Service,
    conn: Connection,
    before: RunRow,
    after: RunRow,
    *,
    author: Author,
    action: str,
    data: Facts | None = None,
) -> Run:
    """The run as it is now. Tells the audit log, unless a repeated request changed nothing."""
    shown = shown_run(service, conn, after)
    if after.version != before.version:
        audit.record(conn, after.tenant_id, author, action, after.run_id, data=data)
    return shown
