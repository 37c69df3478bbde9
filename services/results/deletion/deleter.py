"""Carries deletions out: claims one, does its steps in order, and reports.

The report lies in the object store, too, from the beginning: a database that is restored from an
older backup learns there what was deleted since.
"""

import json
from datetime import timedelta
from typing import Any, Final

import structlog

from services.domain.audit import RESULTS
from services.domain.audit_chain import Anchor
from services.domain.errors import LeaseLostError
from services.objects.audit_anchors import write_anchor
from services.objects.errors import ObjectStoreRefusedError
from services.objects.keys import deletion_key, run_prefix, tenant_prefix
from services.objects.port import ObjectStore
from services.results.deletion import steps
from services.results.deletion.turn import NEXT_TURN, Turn, Wait
from services.results.repeating import IsStopping, never
from services.results.targets.folder import FolderTarget
from services.store import audit, deleted_rows, deletions, restore_guard
from services.store.database import Database
from services.store.deletions import Deletion
from services.store.shard_removal import Rule
from trainer_core.faultpoints import fault_point

log = structlog.get_logger(__name__)

DELETE_EVERY_S: Final = 2.0
_REFUSED: Final = Wait(reason="the object store to allow the deletion", after=timedelta(minutes=5))


class Deleter:
    """Does what ``deletions`` has; several processes may."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        published: FolderTarget,
        *,
        lease: timedelta,
        is_stopping: IsStopping = never,
    ) -> None:
        """``lease``: a deletion whose process is silent for so long is taken over by another."""
        self._database = database
        self._objects = objects
        self._published = published
        self._lease = lease
        self._is_stopping = is_stopping

    def work(self) -> int:
        """Give each deletion that is due a turn; returns how many turns there were.

        Raises ObjectStoreError, DatabaseDownError or DatabaseBusyError; the deletion goes on after
        its lease.
        """
        num_turns = 0
        while not self._is_stopping():
            with self._database.transaction() as conn:
                deletion = deletions.claim(conn, self._lease)
            if deletion is None:
                break
            with structlog.contextvars.bound_contextvars(
                deletion_id=deletion.deletion_id, tenant_id=deletion.tenant_id
            ):
                self._take_turn(deletion)
            num_turns += 1
        return num_turns

    def _take_turn(self, deletion: Deletion) -> None:
        fault_point("deletion.claimed")
        turn = Turn(
            database=self._database,
            objects=self._objects,
            published=self._published,
            deletion=deletion,
            lease=self._lease,
            report=deletion.report,
            batch=[(key, size_bytes) for key, size_bytes in deletion.batch],
            is_stopping=self._is_stopping,
        )
        try:
            with self._database.transaction() as conn:
                service_id = restore_guard.lock_guard(conn).service_id
            key = deletion_key(service_id, deletion.deletion_id)
            if self._objects.size(key) is None:
                self._objects.put_bytes(key, _tombstone(deletion, "running"))
            fault_point("deletion.announced")
            wait = _do_steps(turn, service_id) or _check(turn)
            if wait is None:
                self._end(turn, key)
                return
        except LeaseLostError:
            log.warning("deletion_taken_over")
            return
        except ObjectStoreRefusedError as error:  # such as an object lock
            log.warning("deletion_refused", reason=str(error))
            wait = _REFUSED
        with self._database.transaction() as conn:
            deletions.pause(conn, deletion, waits_for=wait.reason, again_after=wait.after)

    def _end(self, turn: Turn, key: str) -> None:
        deletion = turn.deletion
        self._objects.put_bytes(key, _tombstone(deletion, "succeeded", turn.report))
        fault_point("deletion.reported")
        with self._database.transaction() as conn:
            deletions.succeed(conn, deletion, turn.report)
            if deletion.kind != "tenant":
                audit.record(
                    conn,
                    deletion.tenant_id,
                    RESULTS,
                    f"{deletion.kind}.deleted",
                    deletion.target,
                    data={"deletion": deletion.deletion_id},
                )
        log.info("deletion_succeeded", kind=deletion.kind, target=deletion.target)


def _do_steps(turn: Turn, service_id: str) -> Wait | None:
    match turn.deletion.kind:
        case "run":
            return _delete_run(turn)
        case "dataset":
            return _delete_dataset(turn)
        case "tenant":
            return _delete_tenant(turn, service_id)


def _delete_run(turn: Turn) -> Wait | None:
    late_s = steps.late_writes_s(turn)
    if wait := steps.wait_for_work(turn):
        return wait
    steps.keep_published(turn)
    steps.delete_published(turn, turn.published.of_run(turn.tenant_id, turn.target))
    return (
        steps.delete_prefix(turn, run_prefix(turn.tenant_id, turn.target))
        or steps.delete_shards(turn, Rule.RUN)
        or steps.wait_for_late_writes(late_s)
        or steps.delete_rows(turn)
    )


def _delete_dataset(turn: Turn) -> Wait | None:
    return (
        steps.end_uploads(turn)
        or steps.wait_for_work(turn)
        or steps.delete_shards(turn, Rule.DATASET)
        or steps.wait_for_late_writes(steps.late_writes_s(turn))
        or steps.delete_files(turn)
        or steps.delete_rows(turn)
    )


def _delete_tenant(turn: Turn, service_id: str) -> Wait | None:
    if wait := steps.cancel_runs(turn) or steps.wait_for_work(turn) or steps.forget_cache(turn):
        return wait
    late_s = steps.late_writes_s(turn)
    steps.keep_published(turn)
    steps.delete_published(turn, turn.published.of_tenant(turn.tenant_id))
    if wait := (
        steps.delete_prefix(turn, tenant_prefix(turn.tenant_id))
        or steps.wait_for_late_writes(late_s)
    ):
        return wait
    _end_audit_log(turn, service_id)
    if wait := steps.delete_rows(turn):
        return wait
    _forget_name(turn)
    return None


def _end_audit_log(turn: Turn, service_id: str) -> None:
    """Anchor the newest event: it is what stays of the tenant's audit log."""
    if "audit" in turn.report:  # an earlier turn deleted a part of it
        return
    with turn.database.transaction() as conn:
        newest = audit.newest(conn, turn.tenant_id)
    if newest is None:
        return
    anchor = Anchor(seq=newest.seq, hash=newest.hash)
    write_anchor(turn.objects, service_id, turn.tenant_id, anchor, newest.read_at)
    turn.report["audit"] = {"seq": newest.seq, "hash": newest.hash}


def _forget_name(turn: Turn) -> None:
    with turn.database.transaction() as conn:
        deleted_rows.forget_name(conn, turn.tenant_id)


def _check(turn: Turn) -> Wait | None:
    """List the folders once more: they have to be empty."""
    match turn.deletion.kind:
        case "run":
            prefixes = [run_prefix(turn.tenant_id, turn.target)]
        case "dataset":
            prefixes = []
        case "tenant":
            prefixes = [tenant_prefix(turn.tenant_id)]
    found = {prefix: sum(1 for _ in turn.objects.list_keys(prefix)) for prefix in prefixes}
    if any(found.values()):
        return NEXT_TURN
    turn.report["checked"] = found
    return None


def _tombstone(deletion: Deletion, status: str, report: dict[str, Any] | None = None) -> bytes:
    facts = {
        "deletion_id": deletion.deletion_id,
        "tenant_id": deletion.tenant_id,
        "kind": deletion.kind,
        "target": deletion.target,
        "status": status,
        "asked_at": deletion.created_at.isoformat(),
        "report": report,
    }
    return json.dumps(facts, sort_keys=True).encode()
