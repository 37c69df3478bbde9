"""The ledger in PostgreSQL: every write guarded by the fence, the row of the run locked first.

A run is held while ``lease_until`` is not NULL. The sweep of dead leases sets it to NULL and leaves
the fence, so that what the old holder still sends finds no row.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.errors import LeaseLostError
from services.domain.failures import unexplained
from services.domain.ids import new_id
from services.domain.ledger import (
    CachedShard,
    ChildEvent,
    Claim,
    Outcome,
    RequestedAction,
    StoredCheckpoint,
    StoredFiles,
    Worker,
)
from services.domain.states import RunStatus, Stage
from services.store import (
    outcomes,
    publications,
    run_documents,
    run_events,
    transitions,
    workers,
)
from services.store.database import Connection, Database, columns_of, seconds
from services.store.run_rows import Run
from trainer_core.process.failure import Failure

_STAGES: Final = {
    "loading": Stage.PROVISIONING,
    "training": Stage.TRAINING,
    "sampling": Stage.SAMPLING,
    "checkpointing": Stage.CHECKPOINTING,
    "finalizing": Stage.FINALIZING,
}
"""The child's word for where it is → the run's stage."""


class PostgresLedger:
    """Implements ``services.domain.ledger.Ledger``; safe to share among threads.

    DatabaseDownError, which every method may raise, is a LedgerDownError. See the protocol for what
    may be repeated then.
    """

    def __init__(self, database: Database, *, max_attempts: int = 5) -> None:
        """
        Args:
            max_attempts: in a row without a new checkpoint; then the run fails.
        """
        self._database = database
        self._max_attempts = max_attempts

    def register(self, worker: Worker, *, draining: bool, run_id: str | None) -> None:
        """Make the worker known, or refresh its heartbeat."""
        with self._database.transaction() as conn:
            workers.register(conn, worker, draining=draining, run_id=run_id)

    def claim(self, run_id: str, *, worker_id: str, lease: timedelta) -> Claim | None:
        """Take a queued run whose shards stand; None where it is not to be had."""
        facts = {
            "run_id": run_id,
            "worker_id": worker_id,
            "lease_s": seconds(lease),
            "attempt_id": new_id("att"),
        }
        with self._database.transaction() as conn:
            run = _one_run(conn, _CLAIM, facts)
            if run is None:
                return None
            conn.execute(_ADD_ATTEMPT, facts)
            workers.occupy(conn, worker_id, run_id)
            data = {"stage": run.stage, "reason": None, "attempt": run.fence}
            transitions.announce(conn, run, "run.started", data)
            return _claim_of(conn, run)

    def renew(self, run_id: str, fence: int, *, lease: timedelta) -> RequestedAction:
        """Extend the lease; raises LeaseLostError when the run is no longer ours."""
        facts = {"run_id": run_id, "fence": fence, "lease_s": seconds(lease)}
        with self._database.transaction() as conn:
            row = conn.execute(_RENEW, facts).fetchone()
        if row is None:
            raise LeaseLostError(run_id=run_id, fence=fence)
        requested = {
            RunStatus.CANCELING: RequestedAction.CANCEL,
            RunStatus.PAUSING: RequestedAction.PAUSE,
        }
        return requested.get(RunStatus(row[0]), RequestedAction.RUN)

    def event(self, run_id: str, fence: int, events: Sequence[ChildEvent]) -> None:
        """Store what the child reported, in order; moves the run's stage and step along."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            events = _not_stored(conn, run_id, fence, events)
            if not events:
                return  # nothing new: the reply to the first call was lost
            facts = {
                "run_id": run_id,
                "fence": fence,
                "step": max(event.step for event in events),
                "stage": _stage_after(run, events),
            }
            conn.execute(_MOVE_ALONG, facts)
            conn.execute(_ATTEMPT_STEP, facts)
            run_events.append(conn, run_id, events)

    def commit_checkpoint(self, run_id: str, fence: int, checkpoint: StoredCheckpoint) -> None:
        """From now on a resume starts here."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            facts = {
                "run_id": run_id,
                "tenant_id": run.tenant_id,
                "fence": fence,
                "step": checkpoint.step,
                **_columns(checkpoint.files),
            }
            if conn.execute(_PUT_CHECKPOINT, facts).fetchone() is None:
                return  # it stands already: the reply to the first call was lost
            conn.execute(_NEW_PROGRESS, facts)
            conn.execute(_ATTEMPT_STEP, facts)
            plan = run_documents.read_plan(conn, run.tenant_id, run_id)
            limit = plan["operation"]["checkpoints_total_limit"]
            retired = conn.execute(_RETIRE, {"run_id": run_id, "limit": limit}).rowcount
            if retired:
                conn.execute(_SWEEP_NOW, facts)
            data = {"step": checkpoint.step, "size_bytes": checkpoint.files.size_bytes}
            event = ChildEvent(type="run.checkpoint", step=checkpoint.step, data=data)
            run_events.append(conn, run_id, [event])

    def commit_result(self, run_id: str, fence: int, result: StoredFiles, *, step: int) -> None:
        """The one commit point of a run, with its publication in the same transaction."""
        facts = {"run_id": run_id, "fence": fence, "step": step, **_columns(result)}
        with self._database.transaction() as conn:
            run = _one_run(conn, _LOCK, facts)
            if run is not None and _is_committed(run, fence, result):
                return  # the reply to the first call was lost
            if run is None or run.fence != fence or not run.is_held:
                raise LeaseLostError(run_id=run_id, fence=fence)
            conn.execute(_PUT_RESULT, facts)
            conn.execute(_ATTEMPT_STEP, facts)
            run = transitions.release(conn, run, "finished", None, attempts_without_progress=0)
            if run.status == RunStatus.CANCELING:
                transitions.change_status(conn, run, RunStatus.CANCELED)
                return
            transitions.change_status(conn, run, RunStatus.SUCCEEDED)
            plan = run_documents.read_plan(conn, run.tenant_id, run_id)
            publications.insert(conn, run.tenant_id, run_id, target_of(plan))

    def hand_back(self, run_id: str, fence: int, outcome: Outcome, failure: Failure | None) -> None:
        """Give the run up under the same fence: queued again, or paused, canceled or failed."""
        with self._database.transaction() as conn:
            run = _lock_held(conn, run_id, fence)
            if outcome is Outcome.STOPPED:
                outcomes.end_stopped(conn, run)
            else:
                failure = failure or unexplained()
                outcomes.end_failed(conn, run, "failed", failure, max_attempts=self._max_attempts)


_CLAIM: Final = SQL("""
UPDATE runs SET status = 'running', stage = 'provisioning', status_reason = NULL,
    fence = fence + 1, worker_id = %(worker_id)s, step = checkpoint_step,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    offered_until = NULL, ring_after = NULL,
    version = version + 1, updated_at = clock_timestamp(),
    started_at = coalesce(started_at, clock_timestamp())
WHERE run_id = %(run_id)s AND status = 'queued' AND stage = 'capacity'
    AND EXISTS (
        SELECT FROM run_documents WHERE run_documents.run_id = runs.run_id
            AND run_documents.tenant_id = runs.tenant_id AND data_index IS NOT NULL)
    AND (ring_after IS NULL OR ring_after <= clock_timestamp())
    AND NOT EXISTS (
        SELECT FROM run_shards JOIN cache_shards USING (tenant_id, digest)
        WHERE run_shards.run_id = runs.run_id AND cache_shards.status <> 'done')
RETURNING {columns}
""").format(columns=columns_of(Run))
_ADD_ATTEMPT: Final = """
INSERT INTO attempts (attempt_id, run_id, tenant_id, fence, worker_id, from_step, last_step)
SELECT %(attempt_id)s, run_id, tenant_id, fence, worker_id, checkpoint_step, checkpoint_step
FROM runs WHERE run_id = %(run_id)s
"""
_SHARDS: Final = """
SELECT digest, kind, manifest_sha256, size_bytes
FROM run_shards JOIN cache_shards USING (tenant_id, digest) WHERE run_id = %s ORDER BY digest
"""
_NEWEST_CHECKPOINT: Final = """
SELECT step, key_prefix, manifest_sha256, size_bytes FROM checkpoints
WHERE run_id = %s ORDER BY step DESC LIMIT 1
"""


def _claim_of(conn: Connection, run: Run) -> Claim:
    documents = run_documents.read(conn, run.tenant_id, run.run_id)
    assert documents.data_index is not None  # a condition of the claim
    with conn.cursor(row_factory=class_row(CachedShard)) as cursor:
        shards = tuple(cursor.execute(_SHARDS, (run.run_id,)))
    newest = conn.execute(_NEWEST_CHECKPOINT, (run.run_id,)).fetchone()
    checkpoint = None
    if newest is not None:
        step, key_prefix, manifest_sha256, size_bytes = newest
        files = StoredFiles(
            key_prefix=key_prefix, manifest_sha256=manifest_sha256, size_bytes=size_bytes
        )
        checkpoint = StoredCheckpoint(step=step, files=files)
    return Claim(
        run_id=run.run_id,
        tenant_id=run.tenant_id,
        fence=run.fence,
        plan=documents.plan,
        data_index=documents.data_index,
        base_model=run.base_model,
        shards=shards,
        checkpoint=checkpoint,
    )


_RENEW: Final = """
UPDATE runs SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE run_id = %(run_id)s AND fence = %(fence)s AND lease_until IS NOT NULL
    AND status IN ('running', 'pausing', 'canceling')
RETURNING status
"""

_LOCK_HELD: Final = SQL("""
SELECT {columns} FROM runs
WHERE run_id = %(run_id)s AND fence = %(fence)s AND lease_until IS NOT NULL FOR UPDATE
""").format(columns=columns_of(Run))
_LOCK: Final = SQL("SELECT {columns} FROM runs WHERE run_id = %(run_id)s FOR UPDATE").format(
    columns=columns_of(Run)
)


def _lock_held(conn: Connection, run_id: str, fence: int) -> Run:
    """The run, locked, if it is still held under this fence; else LeaseLostError."""
    run = _one_run(conn, _LOCK_HELD, {"run_id": run_id, "fence": fence})
    if run is None:
        raise LeaseLostError(run_id=run_id, fence=fence)
    return run


def _one_run(conn: Connection, query: Any, facts: dict[str, Any]) -> Run | None:
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(query, facts).fetchone()


_MARK_STORED: Final = """
WITH before AS (
    SELECT last_event FROM attempts WHERE run_id = %(run_id)s AND fence = %(fence)s
)
UPDATE attempts SET last_event = greatest(attempts.last_event, %(newest)s) FROM before
WHERE run_id = %(run_id)s AND fence = %(fence)s
RETURNING before.last_event
"""


def _not_stored(
    conn: Connection, run_id: str, fence: int, events: Sequence[ChildEvent]
) -> list[ChildEvent]:
    """Those that no earlier call stored; from now on they count as stored."""
    newest = max((event.number or 0 for event in events), default=0)
    facts = {"run_id": run_id, "fence": fence, "newest": newest}
    row = conn.execute(_MARK_STORED, facts).fetchone()
    assert row is not None, "a held run has an attempt"
    return [event for event in events if event.number is None or event.number > row[0]]


_MOVE_ALONG: Final = """
UPDATE runs SET step = greatest(step, %(step)s), stage = %(stage)s, updated_at = clock_timestamp(),
    version = version + CASE WHEN stage IS DISTINCT FROM %(stage)s::text THEN 1 ELSE 0 END
WHERE run_id = %(run_id)s
"""
_ATTEMPT_STEP: Final = """
UPDATE attempts SET last_step = greatest(last_step, %(step)s)
WHERE run_id = %(run_id)s AND fence = %(fence)s
"""


def _stage_after(run: Run, events: Sequence[ChildEvent]) -> str | None:
    """Where the run is once all of this happened; what is being canceled stays where it is."""
    stage = run.stage
    if run.status == RunStatus.RUNNING:
        for event in events:
            if event.type == "stage":
                stage = _STAGES.get(str(event.data.get("stage")), stage)
    return stage


_PUT_CHECKPOINT: Final = """
INSERT INTO checkpoints (run_id, step, tenant_id, fence, key_prefix, manifest_sha256, size_bytes)
VALUES (%(run_id)s, %(step)s, %(tenant_id)s, %(fence)s, %(key_prefix)s, %(manifest_sha256)s,
    %(size_bytes)s)
ON CONFLICT (run_id, step) DO UPDATE SET fence = excluded.fence,
    key_prefix = excluded.key_prefix, manifest_sha256 = excluded.manifest_sha256,
    size_bytes = excluded.size_bytes, created_at = clock_timestamp()
    WHERE (checkpoints.fence, checkpoints.manifest_sha256)
        <> (excluded.fence, excluded.manifest_sha256)
RETURNING true
"""
_NEW_PROGRESS: Final = """
UPDATE runs SET checkpoint_step = greatest(checkpoint_step, %(step)s),
    step = greatest(step, %(step)s), attempts_without_progress = 0,
    version = version + 1, updated_at = clock_timestamp()
WHERE run_id = %(run_id)s
"""
_RETIRE: Final = """
DELETE FROM checkpoints WHERE run_id = %(run_id)s AND step NOT IN (
    SELECT step FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step DESC LIMIT %(limit)s)
"""
_SWEEP_NOW: Final = """
UPDATE runs SET sweep_after = least(sweep_after, clock_timestamp()) WHERE run_id = %(run_id)s
"""
_PUT_RESULT: Final = """
UPDATE runs SET step = %(step)s, result_step = %(step)s, result_key_prefix = %(key_prefix)s,
    result_manifest_sha256 = %(manifest_sha256)s, result_size_bytes = %(size_bytes)s
WHERE run_id = %(run_id)s
"""


def _columns(files: StoredFiles) -> dict[str, Any]:
    return {
        "key_prefix": files.key_prefix,
        "manifest_sha256": files.manifest_sha256,
        "size_bytes": files.size_bytes,
    }


def _is_committed(run: Run, fence: int, result: StoredFiles) -> bool:
    """Whether this very result, under this very fence, is what the run ended with."""
    return (
        run.is_over
        and run.fence == fence
        and run.result_key_prefix == result.key_prefix
        and run.result_manifest_sha256 == result.manifest_sha256
    )


def target_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Where a plan wants its result; on the Hub nobody else sees it unless the plan says so."""
    wish = plan["operation"]["publication"]
    if wish["hub_model_id"] is None:
        return {"kind": "folder"}
    return {"kind": "hub", "repo_id": wish["hub_model_id"], "private": wish.get("private", True)}
