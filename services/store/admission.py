"""A run's steps from ``queued/admission`` through ``running/caching`` to ``queued/capacity``."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.failures import backoff, older_builders
from services.domain.ids import is_id
from services.domain.starts import StoredStart, start_from_json
from services.domain.states import RunStatus, Stage
from services.store import cache_entries, datasets, run_documents, transitions
from services.store.cache_entries import NeededEntries
from services.store.database import Connection, columns_of
from services.store.datasets import Dataset, DatasetFile
from services.store.run_rows import Run
from trainer_core.process.failure import Failure, failure_from_json

MAX_OLDER_INDEXES: Final = 20
"""So often a run is indexed by cache builders of the version before, over an hour or two."""
_NOW: Final = timedelta(0)
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendData:
    """The dataset that a run names for one of its data backends."""

    backend: str
    dataset: Dataset
    files: list[DatasetFile]
    """Empty unless the dataset is ``ready``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartData:
    """The adapter that a run starts from."""

    start: StoredStart
    dataset: Dataset | None
    """Whose file it is; None: it is an earlier run's."""


# A path, because jsonb_each() is an error for datasets that are no object.
_IS_WHOLE: Final = """
SELECT jsonb_typeof(datasets) = 'object'
    AND EXISTS (
        SELECT FROM run_documents WHERE run_documents.run_id = runs.run_id
            AND run_documents.tenant_id = runs.tenant_id)
    AND NOT EXISTS (
        SELECT FROM jsonb_path_query(runs.datasets, '$.*') AS named WHERE NOT EXISTS (
            SELECT FROM datasets WHERE datasets.tenant_id = runs.tenant_id
                AND dataset_id = named #>> '{}'))
    AND (start_adapter IS NULL OR start_adapter ->> 'source' LIKE 'run\\_%%' OR EXISTS (
        SELECT FROM datasets WHERE datasets.tenant_id = runs.tenant_id
            AND dataset_id = start_adapter ->> 'source'))
FROM runs WHERE tenant_id = %s AND run_id = %s
"""


def is_whole(conn: Connection, run: Run) -> bool:
    """Whether the run has its documents, and every dataset that it names exists, also to start."""
    row = conn.execute(_IS_WHOLE, (run.tenant_id, run.run_id)).fetchone()
    return row == (True,)


_CAPTION_BYTES: Final = """
SELECT coalesce(sum(octet_length(text)), 0) FROM dataset_files
WHERE tenant_id = %s AND dataset_id = ANY(%s)
"""


def caption_bytes(conn: Connection, run: Run) -> int:
    """Size of all caption files of a run's datasets, without reading them."""
    facts = (run.tenant_id, list(run.datasets.values()))
    row = conn.execute(_CAPTION_BYTES, facts).fetchone()
    assert row is not None
    return int(row[0])


def data_of(conn: Connection, run: Run) -> list[BackendData]:
    """The datasets of a run, in the order of their backends' ids."""
    found = []
    for backend, dataset_id in sorted(run.datasets.items()):
        dataset = datasets.get(conn, run.tenant_id, dataset_id)
        is_ready = dataset.status == "ready"
        files = datasets.files(conn, run.tenant_id, dataset_id) if is_ready else []
        found.append(BackendData(backend=backend, dataset=dataset, files=files))
    return found


def start_data_of(conn: Connection, run: Run) -> StartData | None:
    """The adapter that the run starts from; None: none."""
    if run.start_adapter is None:
        return None
    start = start_from_json(run.start_adapter)
    is_upload = is_id(start.source, "ds")
    dataset = datasets.get(conn, run.tenant_id, start.source) if is_upload else None
    return StartData(start=start, dataset=dataset)


_LOCK: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %s AND status = 'queued' AND stage = 'admission' FOR UPDATE
""").format(columns=columns_of(Run))
_NOTE_DATA: Final = """
UPDATE runs SET warnings = warnings || (
        SELECT coalesce(jsonb_agg(new), '[]') FROM jsonb_array_elements(%s) AS new
        WHERE NOT warnings @> jsonb_build_array(new)), index_until = NULL, infra_failures = 0,
    work = coalesce(%s, work), max_steps = coalesce(%s, max_steps)
WHERE run_id = %s
"""


def admit(
    conn: Connection,
    run_id: str,
    data_index: str,
    needed: NeededEntries,
    warnings: Sequence[str],
    *,
    work: dict[str, Any] | None = None,
    max_steps: int | None = None,
) -> bool:
    """Store the run's data index and have missing entries encoded; with none, caching is skipped.

    False where the run is not waiting any more: another indexer admitted it, or it was canceled.
    Raises DocumentTooLargeError at the end of the transaction where the index cannot be stored.

    Args:
        data_index: ``trainer_core.data.index.DataIndex`` as JSON text.
        work: ``trainer_core.config.plan.work.Work`` as JSON, by the pictures of the index.
        max_steps: of the run; None: as stored when it was created.
    """
    run = lock_waiting(conn, run_id)
    if run is None:
        return False
    run_documents.set_data_index(conn, run.tenant_id, run_id, data_index)
    facts = (Jsonb(list(warnings)), None if work is None else Jsonb(work), max_steps, run_id)
    conn.execute(_NOTE_DATA, facts)
    cache_entries.need(conn, run, needed)
    if all(status == "done" for status, _ in _shard_states(conn, run_id)):
        transitions.change_stage(conn, run, Stage.CAPACITY)
    else:
        transitions.change_status(conn, run, RunStatus.RUNNING, stage=Stage.CACHING)
    return True


def refuse(conn: Connection, run_id: str, failure: Failure) -> None:
    """Fail the run, whose data cannot be used; no change where it no longer waits for admission."""
    run = lock_waiting(conn, run_id)
    if run is not None:
        transitions.change_status(conn, run, RunStatus.FAILED, reason=failure)


_CACHED: Final = SQL("""
SELECT run_id FROM runs
WHERE status = 'running' AND stage = 'caching' AND lease_until IS NULL
    AND (ring_after IS NULL OR ring_after <= clock_timestamp())
    AND EXISTS (
        SELECT FROM run_documents WHERE run_documents.run_id = runs.run_id
            AND run_documents.tenant_id = runs.tenant_id AND index_version = {version})
    AND (NOT EXISTS (
            SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
            WHERE run_shards.run_id = runs.run_id AND cache_shards.status <> 'done')
        OR EXISTS (
            SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
            WHERE run_shards.run_id = runs.run_id AND cache_shards.status = 'failed'))
ORDER BY ring_after NULLS FIRST, run_id LIMIT %s FOR UPDATE OF runs SKIP LOCKED
""").format(version=run_documents.INDEX_VERSION)


def runs_cached(conn: Connection, limit: int) -> list[str]:
    """Runs whose shards are all built or of which one failed; call ``end_caching`` for each."""
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
    """Queue the run for a worker if all shards are built; fail it if one cannot be built."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_LOCK_CACHING, (run_id,)).fetchone()
    if run is None:
        return
    states = _shard_states(conn, run_id)
    errors = [error for status, error in states if status == "failed" and error is not None]
    if errors:
        transitions.change_status(conn, run, RunStatus.FAILED, reason=failure_from_json(errors[0]))
    elif all(status == "done" for status, _ in states):
        transitions.change_status(conn, run, RunStatus.QUEUED, stage=Stage.CAPACITY)


_PLACE: Final = """
SELECT
    EXISTS (
        SELECT FROM run_documents
        WHERE run_id = %(run_id)s AND tenant_id = %(tenant_id)s AND index_version = %(version)s),
    EXISTS (
        SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
        WHERE run_shards.run_id = %(run_id)s AND run_shards.tenant_id = %(tenant_id)s
            AND cache_shards.status <> 'done')
"""


def place_of(conn: Connection, run: Run) -> tuple[RunStatus, Stage]:
    """Where a run belongs that nobody holds: what it has to wait for."""
    facts = {
        "run_id": run.run_id,
        "tenant_id": run.tenant_id,
        "version": run_documents.INDEX_VERSION,
    }
    row = conn.execute(_PLACE, facts).fetchone()
    assert row is not None
    is_admitted, lacks_shards = row
    if not is_admitted:
        return RunStatus.QUEUED, Stage.ADMISSION
    if lacks_shards:
        return RunStatus.RUNNING, Stage.CACHING
    return RunStatus.QUEUED, Stage.CAPACITY


_OF_OLDER_INDEX: Final = SQL("""
SELECT {columns} FROM runs JOIN run_documents USING (run_id, tenant_id)
WHERE lease_until IS NULL AND data_index IS NOT NULL
    AND (index_version IS NULL OR index_version < %s)
    AND ((status = 'queued' AND stage = 'capacity') OR (status = 'running' AND stage = 'caching'))
LIMIT %s FOR UPDATE OF runs SKIP LOCKED
""").format(columns=columns_of(Run))


def readmit_older(conn: Connection, limit: int) -> int:
    """Have runs indexed again that a version before has indexed; returns how many.

    Where cache builders of before index one again and again, it waits longer each time, and fails.
    """
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        found = cursor.execute(_OF_OLDER_INDEX, (run_documents.INDEX_VERSION, limit)).fetchall()
    for run in found:
        times = run_documents.count_older_index(conn, run.tenant_id, run.run_id)
        reason = older_builders(times)
        if times > MAX_OLDER_INDEXES:
            failed = replace(reason, retryable=False)
            transitions.change_status(conn, run, RunStatus.FAILED, reason=failed)
            continue
        pause = backoff(times - 2, first=_FIRST_PAUSE, limit=_LONGEST_PAUSE) if times > 1 else _NOW
        _readmit(conn, run, after=pause, reason=reason if times > 1 else None)
    return len(found)


_NEEDING: Final = SQL("""
SELECT {columns} FROM runs
WHERE tenant_id = %(tenant_id)s AND status = 'running' AND stage = 'caching'
    AND lease_until IS NULL
    AND run_id IN (
        SELECT run_id FROM run_shards WHERE tenant_id = %(tenant_id)s AND digest = %(shard)s)
    AND EXISTS (
        SELECT FROM run_documents CROSS JOIN LATERAL
            jsonb_array_elements(data_index -> 'entries') AS entry
        WHERE run_documents.run_id = runs.run_id AND run_documents.tenant_id = runs.tenant_id
            AND entry ->> 'digest' = ANY(%(digests)s))
ORDER BY run_id FOR UPDATE OF runs
""").format(columns=columns_of(Run))


def readmit_needing(conn: Connection, tenant_id: str, shard: str, digests: Collection[str]) -> None:
    """Have runs indexed again that wait for one of these entries of a shard."""
    for run in _needing(conn, tenant_id, shard, digests):
        _readmit(conn, run)


def fail_needing(
    conn: Connection, tenant_id: str, shard: str, digests: Collection[str], failure: Failure
) -> None:
    """Fail the runs that wait for one of these entries of a shard."""
    for run in _needing(conn, tenant_id, shard, digests):
        transitions.change_status(conn, run, RunStatus.FAILED, reason=failure)


def _needing(conn: Connection, tenant_id: str, shard: str, digests: Collection[str]) -> list[Run]:
    facts = {"tenant_id": tenant_id, "shard": shard, "digests": list(digests)}
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_NEEDING, facts).fetchall()


def _readmit(
    conn: Connection, run: Run, *, after: timedelta = _NOW, reason: Failure | None = None
) -> None:
    if run.status == RunStatus.QUEUED:
        transitions.change_stage(conn, run, Stage.ADMISSION, reason=reason, ring_after=after)
    else:
        transitions.change_status(
            conn, run, RunStatus.QUEUED, stage=Stage.ADMISSION, reason=reason, ring_after=after
        )


def _shard_states(conn: Connection, run_id: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Status and error of every shard that the run needs."""
    return [(status, error) for status, error in conn.execute(_SHARD_STATES, (run_id,))]


def lock_waiting(conn: Connection, run_id: str) -> Run | None:
    """The run, locked, if it still waits for admission."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_LOCK, (run_id,)).fetchone()
