"""The large documents of runs, in a separate table: read them only where needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import NotFoundError
from services.store.database import Connection, columns_of

INDEX_VERSION: Final = 2
"""Of the data indexes that this version writes and trains on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDocuments:
    """One row of ``run_documents``."""

    run_id: str
    tenant_id: str
    request: dict[str, Any]
    """As the tenant sent it."""
    plan: dict[str, Any]
    """``trainer_core.config.plan.Plan`` as JSON."""
    data_index: dict[str, Any] | None
    """``trainer_core.data.index.DataIndex`` as JSON; None until the run is admitted."""


_INSERT: Final = """
INSERT INTO run_documents (run_id, tenant_id, request, plan, notices)
VALUES (%s, %s, %s, %s, %s)
"""


def insert(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    *,
    request: dict[str, Any],
    plan: dict[str, Any],
    notices: Sequence[dict[str, Any]],
) -> None:
    """Store the documents of a run that was created in this transaction."""
    documents = Jsonb(request), Jsonb(plan), Jsonb(list(notices))
    conn.execute(_INSERT, (run_id, tenant_id, *documents))


_READ: Final = SQL("""
SELECT {columns} FROM run_documents WHERE tenant_id = %s AND run_id = %s
""").format(columns=columns_of(RunDocuments))


def read(conn: Connection, tenant_id: str, run_id: str) -> RunDocuments:
    """All documents of a run, often megabytes; raises NotFoundError."""
    with conn.cursor(row_factory=class_row(RunDocuments)) as cursor:
        documents = cursor.execute(_READ, (tenant_id, run_id)).fetchone()
    if documents is None:
        raise NotFoundError("run", run_id)
    return documents


_READ_PLAN: Final = "SELECT plan FROM run_documents WHERE tenant_id = %s AND run_id = %s"


def read_plan(conn: Connection, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Only the plan; raises NotFoundError."""
    row = conn.execute(_READ_PLAN, (tenant_id, run_id)).fetchone()
    if row is None:
        raise NotFoundError("run", run_id)
    plan: dict[str, Any] = row[0]
    return plan


_READ_NOTICES: Final = "SELECT notices FROM run_documents WHERE tenant_id = %s AND run_id = %s"


def read_notices(conn: Connection, tenant_id: str, run_id: str) -> list[dict[str, Any]]:
    """``trainer_core.config.plan.problems.Notice`` as JSON, each; empty for a run of an older
    version."""
    row = conn.execute(_READ_NOTICES, (tenant_id, run_id)).fetchone()
    return [] if row is None else list(row[0])


_READ_NAME_FOR_HUB: Final = """
SELECT request #>> '{secrets,hub}' FROM run_documents WHERE tenant_id = %s AND run_id = %s
"""


def read_hub_secret(conn: Connection, tenant_id: str, run_id: str) -> str | None:
    """The name of the secret that publishes the run's result to the Hub, if one does."""
    row = conn.execute(_READ_NAME_FOR_HUB, (tenant_id, run_id)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


_READ_REQUEST: Final = """
SELECT request, plan FROM run_documents WHERE tenant_id = %s AND run_id = %s
"""


def read_request(
    conn: Connection, tenant_id: str, run_id: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request and the plan; raises NotFoundError."""
    row = conn.execute(_READ_REQUEST, (tenant_id, run_id)).fetchone()
    if row is None:
        raise NotFoundError("run", run_id)
    return row[0], row[1]


_COUNT_OLDER: Final = """
UPDATE run_documents SET older_indexes = older_indexes + 1
WHERE tenant_id = %s AND run_id = %s RETURNING older_indexes
"""


def count_older_index(conn: Connection, tenant_id: str, run_id: str) -> int:
    """Count that a version before has indexed the run; how often in a row."""
    row = conn.execute(_COUNT_OLDER, (tenant_id, run_id)).fetchone()
    assert row is not None
    return int(row[0])


_SET_DATA_INDEX: Final = """
UPDATE run_documents SET data_index = %s::jsonb, index_version = %s, older_indexes = 0
WHERE tenant_id = %s AND run_id = %s
"""


def set_data_index(conn: Connection, tenant_id: str, run_id: str, data_index: str) -> None:
    """Store the data index (JSON text) of a run that is admitted in this transaction."""
    conn.execute(_SET_DATA_INDEX, (data_index, INDEX_VERSION, tenant_id, run_id))
