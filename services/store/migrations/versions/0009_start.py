"""A column for the adapter that a run starts from, and adapter files in datasets.

A column is added, which may be NULL, and a check is widened, so processes of the version before
keep working meanwhile. But their cache builders reject a dataset with an adapter file, and their
trainers fail a run that starts from an adapter for good: upgrade both before the API.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First the large table, before runs are locked. NOT VALID: its rows are not read, as the check
    # before was stricter.
    op.execute(
        "ALTER TABLE dataset_files DROP CONSTRAINT dataset_files_media_check,"
        " ADD CONSTRAINT dataset_files_media_check"
        " CHECK (media IN ('image', 'caption', 'adapter')) NOT VALID"
    )
    # {source, step, files: [{name, key, sha256, size_bytes}, …]}; NULL: it starts from none.
    op.execute("ALTER TABLE runs ADD COLUMN start_adapter jsonb")
    # What is named there is not deleted before the run ends.
    op.execute(
        "CREATE INDEX runs_by_start ON runs (tenant_id, (start_adapter ->> 'source'))"
        " WHERE start_adapter IS NOT NULL"
    )
