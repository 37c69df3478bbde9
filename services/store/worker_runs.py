"""What a remote worker may reach: the run that is offered to it, and the run that it has claimed.

Whatever it may not reach raises the same LeaseLostError, whether it exists or not.
"""

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from services.domain.errors import LeaseLostError
from services.store.database import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferedRun:
    """A run that a worker may claim."""

    run_id: str
    traceparent: str | None
    """The run's trace; None: it has none."""


_OFFERED: Final = """
SELECT run_id, traceparent FROM runs
WHERE offered_to = %s AND offered_until > clock_timestamp()
    AND status = 'queued' AND stage = 'capacity'
"""


def offered_to(conn: Connection, worker_id: str) -> OfferedRun | None:
    """The run that is offered to this worker now; None where there is none."""
    with conn.cursor(row_factory=class_row(OfferedRun)) as cursor:
        return cursor.execute(_OFFERED, (worker_id,)).fetchone()


_HELD_RUN: Final = "SELECT run_id FROM runs WHERE worker_id = %s AND lease_until IS NOT NULL"


def held_run(conn: Connection, worker_id: str) -> str | None:
    """The run that this worker holds now; None where it holds none."""
    row = conn.execute(_HELD_RUN, (worker_id,)).fetchone()
    return None if row is None else str(row[0])


# A pair of run and fence is one claim, for ever. So this need not be asked again in the transaction
# that writes: the ledger checks there that this claim still holds the run.
_CLAIMED: Final = """
SELECT tenant_id FROM attempts
WHERE run_id = %(run_id)s AND fence = %(fence)s AND worker_id = %(worker_id)s
"""


def claimed_by(conn: Connection, worker_id: str, run_id: str, fence: int) -> str:
    """The tenant of the run that this worker claimed with this fence; raises LeaseLostError."""
    return _tenant(conn, _CLAIMED, worker_id, run_id, fence)


_HELD: Final = """
SELECT tenant_id FROM runs
WHERE run_id = %(run_id)s AND fence = %(fence)s AND worker_id = %(worker_id)s
    AND lease_until IS NOT NULL
"""


def held_by(conn: Connection, worker_id: str, run_id: str, fence: int) -> str:
    """The tenant of the run that this worker holds now; raises LeaseLostError."""
    return _tenant(conn, _HELD, worker_id, run_id, fence)


def _tenant(conn: Connection, query: str, worker_id: str, run_id: str, fence: int) -> str:
    facts = {"worker_id": worker_id, "run_id": run_id, "fence": fence}
    row = conn.execute(query, facts).fetchone()
    if row is None:
        raise LeaseLostError(run_id=run_id, fence=fence)
    return str(row[0])


_NEEDS_SHARD: Final = """
SELECT FROM run_shards WHERE tenant_id = %s AND run_id = %s AND digest = %s
"""


def needs_shard(conn: Connection, tenant_id: str, run_id: str, digest: str) -> bool:
    """Whether the run reads this cache shard."""
    return conn.execute(_NEEDS_SHARD, (tenant_id, run_id, digest)).fetchone() is not None


_STARTS_FROM: Final = """
SELECT FROM runs, jsonb_array_elements(start_adapter -> 'files') AS file
WHERE tenant_id = %s AND run_id = %s AND file ->> 'key' = %s
"""


def starts_from(conn: Connection, tenant_id: str, run_id: str, key: str) -> bool:
    """Whether the object is part of the adapter that the run starts from."""
    return conn.execute(_STARTS_FROM, (tenant_id, run_id, key)).fetchone() is not None


_IN_CHECKPOINT: Final = """
SELECT FROM checkpoints
WHERE tenant_id = %s AND run_id = %s AND starts_with(%s, key_prefix)
"""


def is_in_checkpoint(conn: Connection, tenant_id: str, run_id: str, key: str) -> bool:
    """Whether the object is part of a committed checkpoint of the run."""
    return conn.execute(_IN_CHECKPOINT, (tenant_id, run_id, key)).fetchone() is not None
