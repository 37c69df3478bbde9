"""A column that tells which publications a run makes of its own accord.

Columns are only added, with defaults, so processes of the version before keep working meanwhile.
"""

from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of those, a newer one takes the place of older ones that wait.
    op.execute("ALTER TABLE publications ADD COLUMN is_automatic boolean NOT NULL DEFAULT false")
