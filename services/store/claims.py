"""Claims: a worker takes a queued run, which increments the run's fence."""

from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.ids import new_id
from services.domain.ledger import CachedShard, Claim, StoredCheckpoint, StoredFiles
from services.domain.starts import start_from_json
from services.store import (
    restore_guard,
    run_documents,
    run_limits,
    run_samples,
    transitions,
    webhook_events,
    workers,
)
from services.store.database import Connection, columns_of, seconds
from services.store.run_rows import Run

_CLAIM: Final = SQL("""
UPDATE runs SET status = 'running', stage = 'provisioning', status_reason = NULL,
    fence = fence + 1, worker_id = %(worker_id)s, step = checkpoint_step,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    offered_until = NULL, offered_to = NULL, ring_after = NULL, must_stop = false,
    version = version + 1, updated_at = clock_timestamp(),
    started_at = coalesce(started_at, clock_timestamp())
WHERE run_id = %(run_id)s AND status = 'queued' AND stage = 'capacity'
    AND EXISTS (
        SELECT FROM run_documents WHERE run_documents.run_id = runs.run_id
            AND run_documents.tenant_id = runs.tenant_id AND index_version = {index_version})
    AND (ring_after IS NULL OR ring_after <= clock_timestamp())
    AND (offered_to IS NULL OR offered_to = %(worker_id)s OR offered_until <= clock_timestamp())
    AND NOT EXISTS (
        SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
        WHERE run_shards.run_id = runs.run_id AND cache_shards.status <> 'done')
    AND NOT {is_at_limit} AND NOT {is_restored}
RETURNING {columns}
""").format(
    columns=columns_of(Run),
    index_version=run_documents.INDEX_VERSION,
    is_at_limit=run_limits.IS_REACHED,
    is_restored=restore_guard.IS_RESTORED,
)
_ADD_ATTEMPT: Final = """
INSERT INTO attempts (attempt_id, run_id, tenant_id, fence, worker_id, from_step, last_step,
    gpu_class, price_micros_per_hour, node, claim_id)
SELECT %(attempt_id)s, run_id, tenant_id, fence, worker_id, checkpoint_step, checkpoint_step,
    gpu_class, coalesce(price_micros_per_hour, 0),
    coalesce((SELECT node FROM workers WHERE worker_id = %(worker_id)s), ''), %(claim_id)s
FROM runs LEFT JOIN gpu_classes USING (gpu_class) WHERE run_id = %(run_id)s
"""


def claim(
    conn: Connection, run_id: str, *, worker_id: str, lease: timedelta, claim_id: str | None = None
) -> Claim | None:
    """Claim the run if it is queued with all shards built and offered to no other; else None.

    A single guarded UPDATE decides, so only one of several workers succeeds.

    Args:
        claim_id: as in ``claim_offered``.
    """
    facts = {
        "claim_id": claim_id,
        "run_id": run_id,
        "worker_id": worker_id,
        "lease_s": seconds(lease),
        "attempt_id": new_id("att"),
    }
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        run = cursor.execute(_CLAIM, facts).fetchone()
    if run is None:
        return None
    conn.execute(_ADD_ATTEMPT, facts)
    workers.occupy(conn, worker_id, run_id)
    data = {"stage": run.stage, "reason": None, "attempt": run.fence}
    transitions.announce(conn, run, "run.started", data)
    webhook_events.announce_run(conn, run, "run.started")
    return _claim_of(conn, run)


# The run first, as everywhere. The lock of the worker keeps a second claim of the same worker
# waiting until this one has been decided.
_LOCK_RUN: Final = "SELECT FROM runs WHERE run_id = %(run_id)s FOR UPDATE"
_LOCK_WORKER: Final = "SELECT FROM workers WHERE worker_id = %(worker_id)s FOR NO KEY UPDATE"
_RENEW_CLAIM: Final = SQL("""
UPDATE runs SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE run_id = %(run_id)s AND worker_id = %(worker_id)s AND lease_until IS NOT NULL
    AND EXISTS (
        SELECT FROM attempts WHERE attempts.run_id = runs.run_id
            AND attempts.fence = runs.fence AND claim_id = %(claim_id)s)
RETURNING {columns}
""").format(columns=columns_of(Run))
_IS_OFFERED: Final = """
SELECT FROM runs WHERE run_id = %(run_id)s AND status = 'queued'
    AND offered_to = %(worker_id)s AND offered_until > clock_timestamp()
    AND NOT EXISTS (
        SELECT FROM runs AS held
        WHERE held.worker_id = %(worker_id)s AND held.lease_until IS NOT NULL)
    AND NOT EXISTS (
        SELECT FROM attempts WHERE attempts.run_id = runs.run_id AND claim_id = %(claim_id)s)
"""


def claim_offered(
    conn: Connection, run_id: str, *, worker_id: str, lease: timedelta, claim_id: str
) -> Claim | None:
    """As ``claim``, only where the run is offered to this worker and it holds no other run.

    Args:
        claim_id: made by the worker for this claim. The same one again gets the same claim with a
            fresh lease while the attempt lasts, and None afterwards.
    """
    facts = {
        "run_id": run_id,
        "worker_id": worker_id,
        "claim_id": claim_id,
        "lease_s": seconds(lease),
    }
    conn.execute(_LOCK_RUN, facts)
    conn.execute(_LOCK_WORKER, facts)
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        held = cursor.execute(_RENEW_CLAIM, facts).fetchone()
    if held is not None:
        return _claim_of(conn, held)
    if conn.execute(_IS_OFFERED, facts).fetchone() is None:
        return None
    return claim(conn, run_id, worker_id=worker_id, lease=lease, claim_id=claim_id)


_SHARDS: Final = """
SELECT digest, kind, manifest_sha256, size_bytes, (
    SELECT coalesce(json_object_agg(entry.digest, entry.size_bytes), '{}')
    FROM cache_entries AS entry
    WHERE entry.tenant_id = cache_shards.tenant_id AND entry.shard = cache_shards.digest
        AND entry.size_bytes IS NOT NULL) AS entries
FROM run_shards JOIN cache_shards USING (tenant_id, digest) WHERE run_id = %s ORDER BY digest
"""
_CHECKPOINTS: Final = """
SELECT step, key_prefix, manifest_sha256, size_bytes FROM checkpoints
WHERE run_id = %s AND tenant_id = %s ORDER BY step DESC
"""


def _claim_of(conn: Connection, run: Run) -> Claim:
    documents = run_documents.read(conn, run.tenant_id, run.run_id)
    assert documents.data_index is not None  # a condition of the claim
    with conn.cursor(row_factory=class_row(CachedShard)) as cursor:
        shards = tuple(cursor.execute(_SHARDS, (run.run_id,)))
    newest_first = [
        StoredCheckpoint(
            step=step,
            files=StoredFiles(
                key_prefix=key_prefix, manifest_sha256=manifest_sha256, size_bytes=size_bytes
            ),
        )
        for step, key_prefix, manifest_sha256, size_bytes in conn.execute(
            _CHECKPOINTS, (run.run_id, run.tenant_id)
        )
    ]
    made = run_samples.made_before(conn, run.tenant_id, run.run_id)
    return Claim(
        run_id=run.run_id,
        tenant_id=run.tenant_id,
        fence=run.fence,
        plan=documents.plan,
        data_index=documents.data_index,
        base_model=run.base_model,
        shards=shards,
        checkpoint=newest_first[0] if newest_first else None,
        older_checkpoints=tuple(newest_first[1:]),
        budget_s=run_limits.budget_s(conn, run),
        start=None if run.start_adapter is None else start_from_json(run.start_adapter),
        pictures=tuple(made),
        picture_scores={path: score for path, score in made.items() if score is not None},
    )
