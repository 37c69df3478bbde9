"""Workers: registered by heartbeats, occupied by claims, deleted a day after the last heartbeat."""

from datetime import timedelta
from typing import Final

from psycopg.types.json import Jsonb

from services.domain.ledger import Worker
from services.store.database import WORK, Connection, notify, seconds
from trainer_core.process.failure import Failure, failure_as_json

_KNOWN_WORKER: Final = "SELECT draining, run_id FROM workers WHERE worker_id = %(worker_id)s"
_REGISTER: Final = """
INSERT INTO workers (worker_id, kind, gpu_class, version, node, draining, drain_reason, run_id)
VALUES (%(worker_id)s, %(kind)s, %(gpu_class)s, %(version)s, %(node)s, %(draining)s,
    %(drain_reason)s, %(run_id)s)
ON CONFLICT (worker_id) DO UPDATE SET kind = excluded.kind, gpu_class = excluded.gpu_class,
    version = excluded.version, node = excluded.node, draining = excluded.draining,
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
        "node": worker.node,
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


# An attempt that was charged has read its base model. The newest of a worker's models come first.
_RELEASE: Final = """
UPDATE workers SET run_id = NULL, base_models = CASE WHEN attempts.charged_s > 0 THEN
    (array_prepend(base_model, array_remove(base_models, base_model)))[1:%(limit)s]
    ELSE base_models END
FROM runs JOIN attempts USING (run_id, fence)
WHERE workers.worker_id = %(worker_id)s AND workers.run_id = %(run_id)s
    AND runs.run_id = %(run_id)s
"""
_BASE_MODELS: Final = 4
"""Base models that a worker's machine is expected to keep in its page cache or on its disk."""


def release(conn: Connection, worker_id: str | None, run_id: str) -> None:
    """Record that the worker no longer holds the run, and which base model it has read for it."""
    conn.execute(_RELEASE, {"worker_id": worker_id, "run_id": run_id, "limit": _BASE_MODELS})


_SILENT: Final = """
SELECT worker_id FROM workers WHERE heartbeat_at < clock_timestamp() - interval '1 day' LIMIT %s
"""


def silent(conn: Connection, limit: int) -> list[str]:
    """Workers without a heartbeat for a day."""
    return [worker_id for (worker_id,) in conn.execute(_SILENT, (limit,))]


_DELETE: Final = """
DELETE FROM workers
WHERE worker_id = %s AND heartbeat_at < clock_timestamp() - interval '1 day'
"""


def delete_silent(conn: Connection, worker_id: str) -> None:
    """Delete the worker, unless it has sent a heartbeat; attempts still name its id."""
    conn.execute(_DELETE, (worker_id,))


_CACHE_BUILDERS: Final = """
SELECT count(*) FROM workers WHERE kind = 'cache_builder' AND NOT draining
    AND heartbeat_at > clock_timestamp() - make_interval(secs => %s)
"""


def cache_builders(conn: Connection, *, silence: timedelta) -> int:
    """Cache builders that work now; one without a heartbeat for ``silence`` is not counted."""
    row = conn.execute(_CACHE_BUILDERS, (seconds(silence),)).fetchone()
    assert row is not None
    return int(row[0])
