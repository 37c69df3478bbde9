"""Publications that a run makes of its own accord: of its checkpoints, and of its result.

They go to one place, one at a time and in their order, so that the newest one is there in the end.
One that still waits when a newer one is made ends as ``superseded``: a slow Hub gets the newest
checkpoint instead of a queue of old ones, and at most one is kept for it beyond the run's limit.
"""

from typing import Final

from psycopg.types.json import Jsonb

from services.store.database import WORK, Connection, notify
from trainer_core.errors import Category
from trainer_core.process.failure import Failure, failure_as_json

_SUPERSEDED: Final = Failure(
    code="superseded",
    category=Category.INFRA,
    message="A newer checkpoint of the run, or its result, is published in its place.",
    retryable=False,
)
_LOCK: Final = """
SELECT own.publication_id FROM publications AS own
JOIN publications AS asked ON own.tenant_id = asked.tenant_id AND own.run_id = asked.run_id
WHERE asked.publication_id = %s AND asked.is_automatic AND own.is_automatic
    AND own.status IN ('pending', 'running')
ORDER BY own.publication_id FOR UPDATE OF own
"""


def lock(conn: Connection, publication_id: str) -> None:
    """Lock those of its run that have not ended, in one order; nothing where it is manual.

    Call it before any of them is changed. So of two that are claimed at once, one sees the other.
    """
    conn.execute(_LOCK, (publication_id,))


# Publications of a run get ``created_at`` under the lock of its row, from one clock.
_END: Final = """
UPDATE publications AS old SET status = 'failed', error = %(error)s, lease_until = NULL,
    ring_after = NULL, updated_at = clock_timestamp()
FROM publications AS asked
WHERE asked.publication_id = %(publication_id)s AND asked.is_automatic
    AND old.tenant_id = asked.tenant_id AND old.run_id = asked.run_id
    AND old.is_automatic AND old.checkpoint_step IS NOT NULL
    AND (old.status = 'pending'
        OR (old.status = 'running' AND old.lease_until < clock_timestamp()))
    AND EXISTS (
        SELECT FROM publications AS newer
        WHERE newer.tenant_id = old.tenant_id AND newer.run_id = old.run_id
            AND newer.is_automatic AND newer.created_at > old.created_at)
"""


def end_superseded(conn: Connection, publication_id: str) -> None:
    """End those of the same run that wait while there is a newer one; none where it is manual."""
    error = Jsonb(failure_as_json(_SUPERSEDED))
    conn.execute(_END, {"publication_id": publication_id, "error": error})


_ANOTHER_IS_RUNNING: Final = """
SELECT FROM publications AS other
JOIN publications AS asked ON other.tenant_id = asked.tenant_id AND other.run_id = asked.run_id
WHERE asked.publication_id = %(publication_id)s AND other.publication_id <> asked.publication_id
    AND asked.is_automatic AND other.is_automatic
    AND other.status = 'running' AND other.lease_until >= clock_timestamp()
"""


def is_next(conn: Connection, publication_id: str) -> bool:
    """Whether it may be claimed in this transaction: no other of its run is being published.

    A superseded one has ended when this returns, and cannot be claimed. True for a manual one.
    """
    end_superseded(conn, publication_id)
    facts = {"publication_id": publication_id}
    return conn.execute(_ANOTHER_IS_RUNNING, facts).fetchone() is None


_WAKE: Final = """
UPDATE publications AS next SET ring_after = clock_timestamp()
FROM publications AS ended
WHERE ended.publication_id = %(publication_id)s AND ended.is_automatic
    AND next.tenant_id = ended.tenant_id AND next.run_id = ended.run_id
    AND next.is_automatic AND next.status = 'pending' AND next.attempts = 0
RETURNING true
"""


def wake(conn: Connection, publication_id: str) -> None:
    """Ring at once for the one that waited until this one had ended."""
    if conn.execute(_WAKE, {"publication_id": publication_id}).fetchone() is not None:
        notify(conn, WORK)
