"""Columns for files of a dataset that cannot be used and are left out.

Columns are only added, and those that may not be NULL have a default, so processes of the version
before keep working meanwhile. Their cache builders still reject a dataset for such a file, and fail
a run with a dataset that has one: upgrade all cache builders before such datasets are pushed.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # {code, message}; NULL: the file can be used, or was not looked at.
    op.execute("ALTER TABLE dataset_files ADD COLUMN left_out jsonb")
    op.execute(
        "CREATE INDEX dataset_files_left_out ON dataset_files (tenant_id, dataset_id, path)"
        " WHERE left_out IS NOT NULL"
    )
    op.execute(
        "ALTER TABLE datasets"
        " ADD COLUMN num_left_out integer NOT NULL DEFAULT 0,"
        " ADD COLUMN left_out jsonb NOT NULL DEFAULT '[]'"  # the first of them, as problems
    )
