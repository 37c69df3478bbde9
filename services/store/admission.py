"""From ``queued/admission`` over ``running/caching`` to ``queued/capacity``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.states import RunStatus, Stage
from services.store import datasets, run_documents, transitions
from services.store.database import Connection, columns_of, seconds
from services.store.datasets import Dataset, DatasetFile
from services.store.run_rows import Run
from trainer_core.process.failure import Failure, failure_as_json, failure_from_json


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendData:
    """What a run's data backend was given."""

    backend: str
    dataset: Dataset
    files: list[DatasetFile]
    """Empty unless the dataset is ``ready``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededShard:
    """A shard that a run cannot start without."""

    digest: str
    kind: str
    spec: dict[str, Any]


_TO_ADMIT: Final = SQL("""
SELECT {columns} FROM runs
WHERE status = 'queued' AND stage = 'admission' AND ring_after <= clock_timestamp()
ORDER BY ring_after LIMIT %s
""").format(columns=columns_of(Run))


def runs_to_admit(conn: Connection, limit: int) -> list[Run]:
    """Runs whose data is to be looked at now, longest due first."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_TO_ADMIT, (limit,)).fetchall()


def data_of(conn: Connection, run: Run) -> list[BackendData]:
    """The datasets of a run, in the order of their backends' ids."""
    found = []
    for backend, dataset_id in sorted(run.datasets.items()):
        dataset = datasets.get(conn, run.tenant_id, dataset_id)
        is_ready = dataset.status == "ready"
        files = datasets.files(conn, run.tenant_id, dataset_id) if is_ready else []
        found.append(BackendData(backend=backend, dataset=dataset, files=files))
    return found


_LOCK: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND status = 'queued' AND stage = 'admission' FOR UPDATE
""").format(columns=columns_of(Run))
_ADD_WARNINGS: Final = "UPDATE runs SET warnings = warnings || %s WHERE run_id = %s"
# A shard that failed for another run gets one more chance for each new one.
_NEED_SHARD: Final = """
INSERT INTO cache_shards (tenant_id, digest, kind, spec, base_model, ring_after)
VALUES (%(tenant_id)s, %(digest)s, %(kind)s, %(spec)s, %(base_model)s, clock_timestamp())
ON CONFLICT (tenant_id, digest) DO UPDATE SET status = 'pending', attempts = 0, error = NULL,
    ring_after = clock_timestamp(), created_at = clock_timestamp()
    WHERE cache_shards.status = 'failed'
"""
_LINK_SHARD: Final = """
INSERT INTO run_shards (run_id, tenant_id, digest)
VALUES (%(run_id)s, %(tenant_id)s, %(digest)s) ON CONFLICT DO NOTHING
"""


def admit(
    conn: Connection,
    run_id: str,
    data_index: dict[str, Any],
    shards: Sequence[NeededShard],
    warnings: Sequence[str],
) -> bool:
    """Fix the run's data and ask for the shards that are missing; if none is, it has been cached.

    False where the run is no longer waiting for that: another dispatcher was first, or it was
    canceled.
    """
    run = _lock(conn, run_id)
    if run is None:
        return False
    run_documents.set_data_index(conn, run.tenant_id, run_id, data_index)
    conn.execute(_ADD_WARNINGS, (Jsonb(list(warnings)), run_id))
    # By digest, so that two runs that need the same shards never wait for each other in a ring.
    for shard in sorted(shards, key=lambda s: s.digest):
        facts = {
            "run_id": run_id,
            "tenant_id": run.tenant_id,
            "base_model": run.base_model,
            "digest": shard.digest,
            "kind": shard.kind,
            "spec": Jsonb(shard.spec),
        }
        conn.execute(_NEED_SHARD, facts)
        conn.execute(_LINK_SHARD, facts)
    if all(status == "done" for status, _ in _shard_states(conn, run_id)):
        transitions.restage(conn, run, Stage.CAPACITY)
    else:
        transitions.move(conn, run, RunStatus.RUNNING, stage=Stage.CACHING)
    return True


def refuse(conn: Connection, run_id: str, failure: Failure) -> None:
    """The run cannot be done with this data: it fails. Nothing where it waits no longer."""
    run = _lock(conn, run_id)
    if run is not None:
        transitions.move(conn, run, RunStatus.FAILED, reason=failure)


_POSTPONE: Final = """
UPDATE runs SET status_reason = %s,
    ring_after = clock_timestamp() + make_interval(secs => %s)
WHERE run_id = %s
"""


def postpone(conn: Connection, run_id: str, *, after: timedelta, reason: Failure) -> None:
    """Something of ours is missing: look again later, and say why."""
    run = _lock(conn, run_id)
    if run is not None:
        conn.execute(_POSTPONE, (Jsonb(failure_as_json(reason)), seconds(after), run_id))


_AWAIT_DATA: Final = """
UPDATE runs SET status_reason = NULL,
    ring_after = clock_timestamp() + least(make_interval(mins => 1),
        greatest(make_interval(secs => 2), clock_timestamp() - created_at))
WHERE run_id = %s
"""


def await_data(conn: Connection, run_id: str) -> None:
    """Its datasets are not verified yet. The end of that wakes the run; time does it to be sure."""
    if _lock(conn, run_id) is not None:
        conn.execute(_AWAIT_DATA, (run_id,))


_CACHED: Final = """
SELECT run_id FROM runs
WHERE status = 'running' AND stage = 'caching' AND lease_until IS NULL
    AND (NOT EXISTS (
            SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
            WHERE run_shards.run_id = runs.run_id AND cache_shards.status <> 'done')
        OR EXISTS (
            SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
            WHERE run_shards.run_id = runs.run_id AND cache_shards.status = 'failed'))
ORDER BY run_id LIMIT %s
"""


def runs_cached(conn: Connection, limit: int) -> list[str]:
    """Runs whose caching is over, well or badly; call ``end_caching`` for each."""
    return [row[0] for row in conn.execute(_CACHED, (limit,))]


_LOCK_CACHING: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND status = 'running' AND stage = 'caching' AND lease_until IS NULL
FOR UPDATE SKIP LOCKED
""").format(columns=columns_of(Run))
_SHARD_STATES: Final = """
SELECT cache_shards.status, cache_shards.error
FROM run_shards JOIN cache_shards USING (tenant_id, digest) WHERE run_id = %s
"""


def end_caching(conn: Connection, run_id: str) -> None:
    """All shards stand: on to ``queued/capacity``. One cannot be built: the run fails with that."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_CACHING, (run_id,)).fetchone()
    if run is None:
        return
    states = _shard_states(conn, run_id)
    errors = [error for status, error in states if status == "failed" and error is not None]
    if errors:
        transitions.move(conn, run, RunStatus.FAILED, reason=failure_from_json(errors[0]))
    elif all(status == "done" for status, _ in states):
        transitions.move(conn, run, RunStatus.QUEUED, stage=Stage.CAPACITY)


def _shard_states(conn: Connection, run_id: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Status and error of every shard that the run needs."""
    return [(status, error) for status, error in conn.execute(_SHARD_STATES, (run_id,))]


def _lock(conn: Connection, run_id: str) -> Run | None:
    """The run, locked, if it still waits for admission."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_LOCK, (run_id,)).fetchone()
