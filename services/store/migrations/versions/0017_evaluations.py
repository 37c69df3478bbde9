"""An index of the measurements of runs: they are few among the events of a run.

Only an index is added, so processes of the version before keep working. While it is built, no event
is stored; a statement that waits longer than its limit fails, and its caller tries again. That took
0.2 to 0.3 s for 1,000,000 events, 1 % of them evaluations (PostgreSQL 15, 436 MB, not read from the
disk; 2026-11-30). CREATE INDEX CONCURRENTLY would let events be stored meanwhile, but cannot be in
the one transaction of all migrations, which leaves the database unchanged where one of them fails.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX events_measured ON events (run_id, step, seq) WHERE type = 'eval'")
