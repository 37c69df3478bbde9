"""A table of cache entries that cannot be encoded, such as a mask that is black on the whole crop.

And a column that counts how often a version before has indexed a run. Both are only added, so
processes of the version before keep working meanwhile. Their cache builders fail the runs that need
such an entry.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE unusable_entries (
    tenant_id   text NOT NULL REFERENCES tenants,
    digest      text NOT NULL,              -- trainer_core.data.index.Entry.digest
    reason      text NOT NULL,              -- without the name of the image
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, digest)
)
""")
    op.execute("ALTER TABLE run_documents ADD COLUMN older_indexes smallint NOT NULL DEFAULT 0")
    op.execute("CREATE INDEX unusable_entries_by_age ON unusable_entries (created_at)")
    op.execute("GRANT SELECT ON unusable_entries TO reverie_api")
    op.execute("ALTER TABLE unusable_entries ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY one_tenant ON unusable_entries TO reverie_api"
        " USING (tenant_id = current_setting('reverie.tenant_id', true))"
    )
