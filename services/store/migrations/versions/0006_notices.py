"""A column for the notices about a run's options.

Columns are only added, with defaults, so processes of the version before keep working meanwhile.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # One object for each option that acts differently, has no effect, or is taken care of.
    op.execute("ALTER TABLE run_documents ADD COLUMN notices jsonb NOT NULL DEFAULT '[]'")
