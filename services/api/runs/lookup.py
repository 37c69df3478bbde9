"""Finding the run that an address names, to read it or to change it."""

from services.domain.errors import NotFoundError
from services.domain.ids import is_id
from services.store import runs
from services.store.database import Connection
from services.store.run_rows import Run


def find_run(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """Raises NotFoundError, also where the text cannot be an id or the run is another tenant's."""
    if not is_id(run_id, "run"):
        raise NotFoundError("run", run_id)
    return runs.get(conn, tenant_id, run_id)


def lock_run(conn: Connection, tenant_id: str, run_id: str) -> Run:
    """``find_run``, and nobody else changes the run until the transaction ends."""
    if not is_id(run_id, "run"):
        raise NotFoundError("run", run_id)
    return runs.lock(conn, tenant_id, run_id)
