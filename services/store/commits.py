"""Commits of checkpoints and results: a row that refers to files that are already stored."""

from collections.abc import Mapping
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.ledger import ChildEvent, StoredCheckpoint, StoredFiles
from services.domain.states import RunStatus
from services.store import (
    checkpoint_retention,
    measured,
    publications,
    run_documents,
    run_events,
    transitions,
    webhook_events,
)
from services.store.database import Connection, columns_of
from services.store.run_rows import Run

# An attempt commits its checkpoints in order. One below its newest comes a second time, when its
# row and its files may be deleted already.
_PUT_CHECKPOINT: Final = """
INSERT INTO checkpoints (run_id, step, tenant_id, fence, key_prefix, manifest_sha256, size_bytes)
SELECT %(run_id)s, %(step)s, %(tenant_id)s, %(fence)s, %(key_prefix)s, %(manifest_sha256)s,
    %(size_bytes)s
WHERE NOT EXISTS (
    SELECT FROM checkpoints
    WHERE run_id = %(run_id)s AND fence = %(fence)s AND step > %(step)s)
ON CONFLICT (run_id, step) DO UPDATE SET fence = excluded.fence,
    key_prefix = excluded.key_prefix, manifest_sha256 = excluded.manifest_sha256,
    size_bytes = excluded.size_bytes, created_at = clock_timestamp()
    WHERE (checkpoints.fence, checkpoints.manifest_sha256)
        <> (excluded.fence, excluded.manifest_sha256)
RETURNING true
"""
_NEW_PROGRESS: Final = SQL("""
UPDATE runs SET checkpoint_step = greatest(checkpoint_step, %(step)s),
    step = greatest(step, %(step)s), attempts_without_progress = 0, infra_failures = 0,
    version = version + 1, updated_at = clock_timestamp()
WHERE run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Run))


def checkpoint(conn: Connection, run: Run, stored: StoredCheckpoint) -> None:
    """Record a checkpoint of the run, whose row is locked; deletes rows of older checkpoints.

    Committing the same one again changes nothing.
    """
    facts = {
        "run_id": run.run_id,
        "tenant_id": run.tenant_id,
        "fence": run.fence,
        "step": stored.step,
        **_columns(stored.files),
    }
    if conn.execute(_PUT_CHECKPOINT, facts).fetchone() is None:
        return  # it exists already: the reply to the first call was lost
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        advanced = cursor.execute(_NEW_PROGRESS, facts).fetchone()
    assert advanced is not None
    note_step(conn, run.run_id, run.fence, stored.step)
    plan = run_documents.read_plan(conn, run.tenant_id, run.run_id)
    if publications.publishes_checkpoints(plan) and run.status != RunStatus.CANCELING:
        _publish(conn, run, plan, checkpoint_step=stored.step)
    checkpoint_retention.retire(conn, run.run_id, plan)
    data = {"step": stored.step, "size_bytes": stored.files.size_bytes}
    event = ChildEvent(type="run.checkpoint", step=stored.step, data=data)
    run_events.append(conn, run.run_id, [event])
    webhook_events.announce_run(
        conn, advanced, "run.checkpoint.created", checkpoint_step=stored.step
    )


_PUT_RESULT: Final = """
UPDATE runs SET step = %(step)s, result_step = %(step)s, result_key_prefix = %(key_prefix)s,
    result_manifest_sha256 = %(manifest_sha256)s, result_size_bytes = %(size_bytes)s
WHERE run_id = %(run_id)s
"""


def result(conn: Connection, run: Run, files: StoredFiles, *, step: int) -> None:
    """End the run, whose row is locked, with this result, and create its publication.

    A run in ``canceling`` becomes canceled; its result is kept and not published.
    """
    conn.execute(_PUT_RESULT, {"run_id": run.run_id, "step": step, **_columns(files)})
    note_step(conn, run.run_id, run.fence, step)
    run = transitions.release(conn, run, "finished", None)
    measured.record_attempt(conn, run)
    if run.status == RunStatus.CANCELING:
        transitions.change_status(conn, run, RunStatus.CANCELED)
        return
    transitions.change_status(conn, run, RunStatus.SUCCEEDED)
    plan = run_documents.read_plan(conn, run.tenant_id, run.run_id)
    _publish(conn, run, plan, checkpoint_step=None)


def _publish(
    conn: Connection, run: Run, plan: Mapping[str, Any], *, checkpoint_step: int | None
) -> None:
    """Create the publication that the plan asks for; a step of None: of the result."""
    hub_secret = run_documents.read_hub_secret(conn, run.tenant_id, run.run_id)
    publications.insert(
        conn,
        run.tenant_id,
        run.run_id,
        publications.target_of(plan, hub_secret),
        checkpoint_step=checkpoint_step,
        is_automatic=True,
    )


def is_result_of(run: Run, fence: int, result: StoredFiles) -> bool:
    """Whether the run ended with this result, committed with this fence."""
    return (
        run.is_over
        and run.fence == fence
        and run.result_key_prefix == result.key_prefix
        and run.result_manifest_sha256 == result.manifest_sha256
    )


_ATTEMPT_STEP: Final = """
UPDATE attempts SET last_step = greatest(last_step, %(step)s)
WHERE run_id = %(run_id)s AND fence = %(fence)s
"""


def note_step(conn: Connection, run_id: str, fence: int, step: int) -> None:
    """Record the step that the attempt has reached."""
    conn.execute(_ATTEMPT_STEP, {"run_id": run_id, "fence": fence, "step": step})


def _columns(files: StoredFiles) -> dict[str, Any]:
    return {
        "key_prefix": files.key_prefix,
        "manifest_sha256": files.manifest_sha256,
        "size_bytes": files.size_bytes,
    }
