"""Workers: registered by heartbeats, occupied by claims, deleted a day after the last heartbeat."""

from typing import Final

from psycopg.types.json import Jsonb

from services.domain.ledger import Worker
from services.store.database import WORK, Connection, notify
from trainer_core.process.failure import Failure, failure_as_json

_KNOWN_WORKER: Final = "SELECT draining, run_id FROM workers WHERE worker_id = %(worker_id)s"
_REGISTER: Final = """
INSERT INTO workers (worker_id, kind, gpu_class, version, draining, drain_reason, run_id)
VALUES (%(worker_id)s, %(kind)s, %(gpu_class)s, %(version)s, %(draining)s, %(drain_reason)s,
    %(run_id)s)
ON CONFLICT (worker_id) DO UPDATE SET kind = excluded.kind, gpu_class = excluded.gpu_class,
    version = excluded.version, draining = excluded.draining,
    drain_reason = excluded.drain_reason, run_id = excluded.run_id,
    heartbeat_at = clock_timestamp()
"""


def register(
    conn: Connection,
    worker: Worker,
    *,
    draining: bool,
    run_id: str | None,
    drain_reason: Failure | None = None,
) -> None:
    """Register the worker, or refresh its heartbeat and its state.

    Args:
        draining: it takes no further run.
        drain_reason: why it cannot work; None where it was asked to stop.
        run_id: the run that it holds.
    """
    facts = {
        "worker_id": worker.worker_id,
        "kind": worker.kind,
        "gpu_class": worker.gpu_class,
        "version": worker.version,
        "draining": draining,
        "drain_reason": None if drain_reason is None else Jsonb(failure_as_json(drain_reason)),
        "run_id": run_id,
    }
    before = conn.execute(_KNOWN_WORKER, facts).fetchone()
    conn.execute(_REGISTER, facts)
    if before != (draining, run_id):
        notify(conn, WORK)


_OCCUPY: Final = "UPDATE workers SET run_id = %s WHERE worker_id = %s"


def occupy(conn: Connection, worker_id: str, run_id: str) -> None:
    """Record that the worker claimed this run in this transaction."""
    conn.execute(_OCCUPY, (run_id, worker_id))


_RELEASE: Final = "UPDATE workers SET run_id = NULL WHERE worker_id = %s AND run_id = %s"


def release(conn: Connection, worker_id: str | None, run_id: str) -> None:
    """Record that the worker no longer holds the run."""
    conn.execute(_RELEASE, (worker_id, run_id))


_FORGET: Final = """
DELETE FROM workers WHERE worker_id IN (
    SELECT worker_id FROM workers WHERE heartbeat_at < clock_timestamp() - interval '1 day'
    FOR UPDATE SKIP LOCKED)
"""


def delete_silent(conn: Connection) -> None:
    """Delete workers without a heartbeat for a day; attempts still name their ids."""
    conn.execute(_FORGET)
