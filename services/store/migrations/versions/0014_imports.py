"""A table of datasets whose files the service fetches itself, from lists of addresses or the Hub.

A table is added, so processes of the version before keep working meanwhile: an API of before shows
such a dataset as one that is uploading, and its cache builders leave the import to new ones.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE dataset_imports (
    tenant_id     text NOT NULL REFERENCES tenants,
    dataset_id    text NOT NULL REFERENCES datasets ON DELETE CASCADE,
    source        jsonb NOT NULL,       -- a data backend, as in multidatabackend.json
    list          text,                 -- content of its list; NULL: none, or not read yet
    status        text NOT NULL DEFAULT 'importing'
        CHECK (status IN ('importing', 'imported', 'failed')),
    position      jsonb,                -- trainer_core.sources.numbered; NULL: the start
    rows_done     bigint NOT NULL DEFAULT 0,
    rows_total    bigint,               -- NULL: not known
    pictures      bigint NOT NULL DEFAULT 0,
    left_out      bigint NOT NULL DEFAULT 0,
    left_out_rows jsonb NOT NULL DEFAULT '[]',  -- of the first ones {row, message}
    fetched_bytes bigint NOT NULL DEFAULT 0,
    failures      integer NOT NULL DEFAULT 0,   -- in a row, the slice under way included
    fence         bigint NOT NULL DEFAULT 0,
    ring_after    timestamptz,          -- NULL: it is over
    offered_until timestamptz,
    lease_until   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at    timestamptz,
    finished_at   timestamptz,
    PRIMARY KEY (tenant_id, dataset_id)
)
""")
    op.execute(
        "CREATE INDEX dataset_imports_due ON dataset_imports (tenant_id, ring_after)"
        " WHERE ring_after IS NOT NULL"
    )
    op.execute("CREATE INDEX dataset_imports_of_dataset ON dataset_imports (dataset_id)")
    op.execute("GRANT SELECT, INSERT ON dataset_imports TO reverie_api")
    op.execute("ALTER TABLE dataset_imports ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY one_tenant ON dataset_imports TO reverie_api"
        " USING (tenant_id = current_setting('reverie.tenant_id', true))"
    )
