"""A table of cache entries: which shard of a tenant has which encoded picture or caption.

A table and a column are added, so processes of the version before keep working meanwhile. But
their trainers fail a run whose data index is of this version, and their cache builders cannot build
the shards of such a run: upgrade trainers first, then cache builders. Runs that cache builders of
before have indexed are indexed again by new ones.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE cache_entries (
    tenant_id   text NOT NULL REFERENCES tenants,
    digest      text NOT NULL,              -- trainer_core.data.index.Entry.digest
    shard       text NOT NULL,              -- the digest of the cache shard that has it
    size_bytes  bigint,                     -- of its tensors; NULL until the shard is built
    PRIMARY KEY (tenant_id, digest),
    FOREIGN KEY (tenant_id, shard) REFERENCES cache_shards ON DELETE CASCADE
)
""")
    op.execute("CREATE INDEX cache_entries_of_shard ON cache_entries (tenant_id, shard)")
    # NULL: of a version before 2, or no index.
    op.execute("ALTER TABLE run_documents ADD COLUMN index_version smallint")
    op.execute("GRANT SELECT ON cache_entries TO reverie_api")
    op.execute("ALTER TABLE cache_entries ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY one_tenant ON cache_entries TO reverie_api"
        " USING (tenant_id = current_setting('reverie.tenant_id', true))"
    )
