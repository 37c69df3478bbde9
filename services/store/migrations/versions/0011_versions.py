"""Columns for the digest of a dataset, what it was made from, and which rules verified a file.

Columns are only added, and may be NULL, so processes of the version before keep working meanwhile:
their cache builders verify again what is verified already. A dataset that they complete has no
digest.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First the large table. No row is rewritten, and the index is empty.
    # The number of the rules that the file was found good by; NULL: not verified, or found bad.
    op.execute("ALTER TABLE dataset_files ADD COLUMN verified_by integer")
    # By which the verification of one dataset finds what that of another has found already.
    op.execute(
        "CREATE INDEX dataset_files_of_content ON dataset_files (tenant_id, sha256)"
        " WHERE verified_by IS NOT NULL"
    )
    op.execute(
        "ALTER TABLE datasets"
        " ADD COLUMN digest text,"  # services.domain.dataset_digest; NULL: not completed
        " ADD COLUMN based_on text"  # the dataset whose files it took over; it may be deleted
    )
