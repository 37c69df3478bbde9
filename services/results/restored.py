"""After a backup of the database was restored: adopt what the object store has of its runs.

A marker in the object store and a row in the database count up together. Where the database is
behind, or is another one than before, its runs are reconciled before anything is deleted: their
attempts end, their fences rise above every attempt that may still run, and the newest complete
checkpoint of each run is adopted. Objects that no row references after that are swept as always.
What was deleted since the backup is deleted again: the reports of deletions lie in the store.
"""

import json
from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.domain.ledger import StoredCheckpoint
from services.metrics.dependencies import database_is_restored
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import check_folder
from services.objects.keys import (
    MANIFEST_NAME,
    attempts_prefix,
    checkpoint_of,
    deletions_prefix,
    fence_of,
    generation_key,
    runs_prefix,
)
from services.objects.port import ObjectStore
from services.results.deletion.report import REPORT_BYTES
from services.store import restore_guard, restored_deletions, restored_runs
from services.store.database import Database
from services.store.restored_deletions import ForgottenDeletion
from services.store.restored_runs import FoundObjects, OpenRun
from services.workers.scratch import Scratch
from trainer_core.faultpoints import fault_point

log = structlog.get_logger(__name__)

_MARKER_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What was done with the runs of a restored database."""

    resume_steps: dict[str, int]
    """Run → step of the checkpoint that it resumes from; 0: from the beginning."""
    unknown_runs: tuple[str, ...]
    """Runs with objects and without a row: they were submitted after the backup. Their objects
    are kept."""


def settle(database: Database, objects: ObjectStore, scratch: Scratch) -> None:
    """Compare database and object store, and reconcile the runs where the database was restored.

    Raises ObjectStoreError, DatabaseDownError or DatabaseBusyError; call it again then.
    """
    is_restored = compare(database, objects)
    database_is_restored.set(is_restored)
    if is_restored:
        reconcile(database, objects, scratch)
        database_is_restored.set(0)


def compare(database: Database, objects: ObjectStore) -> bool:
    """Whether the database was restored from a backup; else both count up by one.

    Raises as ``settle``.
    """
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
    marked = _marked_generation(objects, service_id)
    with database.transaction() as conn:
        guard = restore_guard.lock_guard(conn)
        if guard.is_restored or guard.generation < marked:
            restore_guard.declare_restored(conn)
            log.warning("database_restored", generation=guard.generation, marked=marked)
            return True
        generation = restore_guard.advance(conn)
    _mark(objects, service_id, generation)
    return False


def reconcile(database: Database, objects: ObjectStore, scratch: Scratch) -> Reconciled:
    """Reconcile all runs that are not over. May be killed anywhere and called again.

    Raises as ``settle``.
    """
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
    _delete_again(database, objects, service_id)
    with database.transaction() as conn:
        open_runs = restored_runs.open_runs(conn)
        known = restored_runs.run_ids_by_tenant(conn)
    resume_steps = {}
    for run in open_runs:
        step = _reconcile_run(database, objects, scratch, run)
        if step is not None:
            resume_steps[run.run_id] = step
        fault_point("restored.run")
    unknown = tuple(
        run_id
        for tenant_id, run_ids in known.items()
        for run_id in _runs_with_objects(objects, tenant_id)
        if run_id not in run_ids
    )
    for run_id in unknown:
        log.warning("run_unknown", run_id=run_id, reason="submitted after the backup")
    marked = _marked_generation(objects, service_id)
    fault_point("restored.before_end")
    with database.transaction() as conn:
        restore_guard.end(conn, marked)
    log.info("database_reconciled", runs=len(resume_steps), unknown_runs=len(unknown))
    return Reconciled(resume_steps=resume_steps, unknown_runs=unknown)


def _delete_again(database: Database, objects: ObjectStore, service_id: str) -> None:
    for key in objects.list_keys(deletions_prefix(service_id)):
        facts = json.loads(objects.get_bytes(key, limit_bytes=REPORT_BYTES))
        forgotten = ForgottenDeletion(
            deletion_id=facts["deletion_id"],
            tenant_id=facts["tenant_id"],
            kind=facts["kind"],
            target=facts["target"],
            report=facts["report"] or {},
            asked_at=facts["asked_at"],
        )
        with database.transaction() as conn:
            if restored_deletions.ask_again(conn, forgotten):
                log.warning("deletion_asked_again", deletion_id=forgotten.deletion_id)
        fault_point("restored.deletion")


def _reconcile_run(
    database: Database, objects: ObjectStore, scratch: Scratch, run: OpenRun
) -> int | None:
    with structlog.contextvars.bound_contextvars(run_id=run.run_id, tenant_id=run.tenant_id):
        with database.transaction() as conn:
            committed = restored_runs.checkpoint_steps(conn, run)
        found = _find(objects, scratch, run, committed)
        with database.transaction() as conn:
            step = restored_runs.reconcile_run(conn, run, found)
        log.info("run_reconciled", resumes_from_step=step, newest_fence=found.newest_fence)
    return step


def _find(
    objects: ObjectStore, scratch: Scratch, run: OpenRun, committed: dict[str, int]
) -> FoundObjects:
    """What the store has of a run; the newest checkpoint is read and checked by its digests."""
    keys = list(objects.list_keys(attempts_prefix(run.tenant_id, run.run_id)))
    prefixes = {
        key.removesuffix(MANIFEST_NAME): place
        for key in keys
        if key.endswith("/" + MANIFEST_NAME) and (place := checkpoint_of(key)) is not None
    }
    known_step = max((step for prefix, step in committed.items() if prefix in prefixes), default=0)
    candidates = sorted(
        ((place.step, place.fence, prefix) for prefix, place in prefixes.items()), reverse=True
    )
    found = FoundObjects(
        newest_fence=max((fence_of(key) for key in keys), default=0),
        prefixes=frozenset(prefixes),
        newer=None,
    )
    for step, fence, prefix in candidates:
        if step <= known_step:
            break
        try:
            with scratch.work_folder("restored") as folder:
                files = check_folder(objects, prefix, folder)
        except (ObjectMissingError, ObjectCorruptError) as error:
            log.warning("checkpoint_not_adopted", step=step, fence=fence, reason=str(error))
            continue
        newer = StoredCheckpoint(step=step, files=files)
        return replace(found, newer=newer, newer_fence=fence)
    return found


def _runs_with_objects(objects: ObjectStore, tenant_id: str) -> list[str]:
    prefix = runs_prefix(tenant_id)
    keys = objects.list_keys(prefix)
    return sorted({key.removeprefix(prefix).partition("/")[0] for key in keys})


def _marked_generation(objects: ObjectStore, service_id: str) -> int:
    """The number in the object store; 0 where there is none."""
    try:
        return int(objects.get_bytes(generation_key(service_id), limit_bytes=_MARKER_BYTES))
    except ObjectMissingError:
        return 0


def _mark(objects: ObjectStore, service_id: str, generation: int) -> None:
    objects.put_bytes(generation_key(service_id), str(generation).encode())
