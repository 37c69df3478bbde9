"""Move the request, plan and data index of runs to a separate table, to keep rows of runs small.

The migration is one transaction, so a crash leaves the old schema unchanged. Stop the processes of
the old version first (helm/reverie/README.md): they read and write the columns that are dropped.
Keeping the columns would not help them, because new processes do not fill them.
"""

from typing import Final

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RUNS_A_BATCH: Final = 8
"""Small, because the documents of one run may be hundreds of megabytes."""

_CREATE: Final = """
CREATE TABLE run_documents (
    run_id      text PRIMARY KEY REFERENCES runs,
    tenant_id   text NOT NULL REFERENCES tenants,
    request     jsonb NOT NULL,             -- as sent
    plan        jsonb NOT NULL,             -- resolved: trainer_core.config.plan.Plan
    data_index  jsonb                       -- trainer_core.data.index.DataIndex, made at admission
)
"""
_COPY: Final = """
WITH copied AS (
    INSERT INTO run_documents (run_id, tenant_id, request, plan, data_index)
    SELECT run_id, tenant_id, request, plan, data_index FROM runs
    WHERE run_id > :after ORDER BY run_id LIMIT :limit
    RETURNING run_id
)
SELECT max(run_id) FROM copied
"""
_DIFFERENT: Final = """
SELECT count(*) FROM runs LEFT JOIN run_documents USING (run_id, tenant_id)
WHERE (runs.request, runs.plan) IS DISTINCT FROM (run_documents.request, run_documents.plan)
    OR (runs.data_index IS NULL) <> (run_documents.data_index IS NULL)
"""


def upgrade() -> None:
    connection = op.get_bind()
    # No run may be created between the copy and the DROP COLUMN.
    op.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
    op.execute(_CREATE)
    after: str | None = ""
    while after is not None:
        facts = {"after": after, "limit": _RUNS_A_BATCH}
        after = connection.execute(text(_COPY), facts).scalar_one()
    if connection.execute(text(_DIFFERENT)).scalar_one():
        raise RuntimeError("some documents differ after the copy; the migration is rolled back")
    op.execute("ALTER TABLE runs DROP COLUMN request, DROP COLUMN plan, DROP COLUMN data_index")
    # Consecutive unexpected errors of the dispatcher with this run.
    op.execute("ALTER TABLE runs ADD COLUMN dispatch_failures integer NOT NULL DEFAULT 0")
