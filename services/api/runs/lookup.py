"""Finding the run that an address names, to read it or to change it."""

from typing import Annotated

from fastapi import Depends

from services.api.shapes import RunId
from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import runs
from services.store.database import Connection
from services.store.run_rows import Run


def checked_run_id(run_id: RunId) -> str:
    """Raises NotFoundError where the text cannot be an id."""
    if not is_id(run_id, "run"):
        raise NotFoundError("run", run_id)
    return run_id


CheckedRunId = Annotated[str, Depends(checked_run_id)]
"""Checked before the body: ``PATCH /v1/runs/run_…:pause`` names no run."""


def find_run(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """Raises NotFoundError, also where the text cannot be an id or the run is another tenant's."""
    return runs.get(conn, tenant_id, checked_run_id(run_id))


def lock_run(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """``find_run``, and nobody else changes the run until the transaction ends."""
    return runs.lock(conn, tenant_id, checked_run_id(run_id))
