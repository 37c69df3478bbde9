"""An index of the measurements of runs: they are few among the events of a run.

Only an index is added, so processes of the version before keep working. While it is built, no event
is stored; a statement that waits longer than its limit fails, and its caller tries again.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX events_measured ON events (run_id, step, seq) WHERE type = 'eval'")
