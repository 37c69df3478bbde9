"""The steps of a deletion. Each is bounded, may be killed anywhere, and may be done again.

A step returns None where it is done, and a ``Wait`` where the deletion has to go on later.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from services.metrics.work import objects_swept
from services.objects.keys import upload_key, uploads_prefix
from services.results.deleted_objects import delete_objects
from services.results.deletion import report
from services.results.deletion.turn import NEXT_TURN, Turn, Wait
from services.results.shard_removal import Objects, remove_shard
from services.results.targets.folder import files_and_bytes, remove
from services.store import abandoned_uploads, deleted_rows, shard_removal
from services.store.abandoned_uploads import Abandoned
from services.store.database import Connection
from services.store.shard_removal import Refused, Rule, Shard
from trainer_core.faultpoints import fault_point

_OBJECTS_A_BATCH: Final = 100
_FILES_A_BATCH: Final = 50
"""Meanwhile the tenant can create nothing."""
_SHARDS_A_BATCH: Final = 20
_RUNS_A_BATCH: Final = 20
_SOON: Final = timedelta(seconds=2)
_KEPT: Final = {
    "publication": "A result was published there, and is no longer ours; delete it there.",
    "metrics": "Metrics were relayed there, and are no longer ours; delete them there.",
}
_LONGEST_WAIT: Final = timedelta(minutes=5)
_SHARED_FILES: Final = "files that other datasets list"
_PUBLICATIONS: Final = "publications"


def cancel_runs(turn: Turn) -> Wait | None:
    """Cancel the tenant's open runs, and wait until their workers have stopped."""
    with turn.database.transaction() as conn:
        num_open = deleted_rows.cancel_open_runs(conn, turn.tenant_id, _RUNS_A_BATCH)
    return Wait(reason="its runs to stop", after=_SOON) if num_open else None


def wait_for_work(turn: Turn) -> Wait | None:
    """Wait until nothing works with the data any more."""
    with turn.database.transaction() as conn:
        reason = deleted_rows.at_work(conn, turn.deletion)
    return None if reason is None else Wait(reason=reason, after=_SOON)


def late_writes_s(turn: Turn) -> float:
    """Seconds for which somebody may still write; objects deleted afterwards stay away."""
    with turn.database.transaction() as conn:
        return deleted_rows.late_writes_s(conn, turn.deletion)


def wait_for_late_writes(late_s: float) -> Wait | None:
    """Wait until nobody can write objects any more; the objects are deleted once more then."""
    if not late_s:
        return None
    return Wait(
        reason="addresses and workers that may still write to expire",
        after=min(timedelta(seconds=late_s), _LONGEST_WAIT),
    )


def keep_published(turn: Turn) -> None:
    """Note what was sent elsewhere: it is not ours any more."""
    with turn.database.transaction() as conn:
        for what, id_, place in deleted_rows.published(conn, turn.deletion):
            report.keep(turn.report, what, id_, place=place, reason=_KEPT[what])
        turn.save(conn, turn.batch)


def delete_prefix(turn: Turn, prefix: str) -> Wait | None:
    """Delete every object of a folder that nobody else needs."""
    while True:
        if not turn.batch:
            keys = islice(turn.objects.list_keys(prefix), _OBJECTS_A_BATCH)
            noted = [(key, turn.objects.size(key) or 0) for key in keys]
            if not noted:
                _end_uploads(turn, prefix)
                return None
            with turn.database.transaction() as conn:
                turn.save(conn, noted)
            fault_point("deletion.batch_noted")
        delete_objects(turn.objects, (key for key, _ in turn.batch))
        fault_point("deletion.objects_deleted")
        report.add_objects(turn.report, turn.batch)
        with turn.database.transaction() as conn:
            turn.save(conn)
        if turn.should_end:
            return NEXT_TURN


def _end_uploads(turn: Turn, prefix: str) -> None:
    """End uploads in parts that were never finished."""
    report.add_uploads(turn.report, turn.objects.parts.abort(prefix, older_than=timedelta(0)))


def delete_published(turn: Turn, folders: Sequence[Path]) -> None:
    """Delete what was published to the service's own folder; it is counted before, and once."""
    if folders and not report.has_folder(turn.report, _PUBLICATIONS):
        num_files, size_bytes = files_and_bytes(folders)
        report.add_folder(turn.report, _PUBLICATIONS, num_objects=num_files, size_bytes=size_bytes)
    with turn.database.transaction() as conn:
        turn.save(conn, turn.batch)
    fault_point("deletion.published_noted")
    remove(folders)


def delete_shards(turn: Turn, rule: Literal[Rule.RUN, Rule.DATASET]) -> Wait | None:
    """Delete the cache shards of the run, or of the dataset's runs, that no other run names."""
    while True:
        with turn.database.transaction() as conn:
            found = shard_removal.of_deleted(
                conn, turn.tenant_id, rule, turn.target, _SHARDS_A_BATCH
            )
        if not found:
            return None
        outcomes = [_remove_shard(turn, shard, rule) for shard in found]
        if all(outcome is Refused.HELD for outcome in outcomes):
            return Wait(reason="a cache shard to be built", after=_SOON)
        if turn.should_end:
            return NEXT_TURN


def _remove_shard(turn: Turn, shard: Shard, rule: Rule) -> Refused | None:
    def count(conn: Connection, stored: Objects) -> None:
        report.add_objects(turn.report, stored)
        turn.save(conn, turn.batch)

    outcome = remove_shard(
        turn.database, turn.objects, shard, rule, turn.target, lease=turn.lease, on_taken=count
    )
    if outcome is Refused.NEEDED:
        report.keep_shared(turn.report, "cache shards that other runs name", 1)
    with turn.database.transaction() as conn:
        turn.save(conn, turn.batch)
    return outcome


def delete_files(turn: Turn) -> Wait | None:
    """Delete a dataset's files that no other dataset lists."""
    dataset = Abandoned(tenant_id=turn.tenant_id, dataset_id=turn.target)
    with turn.database.transaction() as conn:
        since, contents = abandoned_uploads.unshared(conn, dataset)
    noted = [key.rpartition("/")[2] for key, _ in turn.batch]
    batches = [noted] if noted else []
    batches += [
        contents[start : start + _FILES_A_BATCH]
        for start in range(0, len(contents), _FILES_A_BATCH)
    ]
    for batch in batches:
        if batch is not noted:
            keys = [upload_key(turn.tenant_id, sha256) for sha256 in batch]
            sizes = [turn.objects.size(key) for key in keys]
            stored = [(k, size) for k, size in zip(keys, sizes, strict=True) if size is not None]
            with turn.database.transaction() as conn:
                turn.save(conn, stored)
            fault_point("deletion.batch_noted")
        with turn.database.transaction() as conn:
            deleted = set()
            for sha256 in abandoned_uploads.lock_unshared(conn, dataset, batch, since):
                key = upload_key(turn.tenant_id, sha256)
                turn.objects.delete(key)
                objects_swept.inc()
                deleted.add(key)
            fault_point("deletion.files_deleted")
            report.add_objects(turn.report, [each for each in turn.batch if each[0] in deleted])
            report.add_rows(turn.report, deleted_rows.delete_files(conn, turn.deletion, batch))
            turn.save(conn)
        if turn.should_end:
            return NEXT_TURN
    if _SHARED_FILES not in turn.report.get("shared", {}):  # counted once, over all turns
        with turn.database.transaction() as conn:
            if num_shared := deleted_rows.num_contents(conn, turn.deletion):
                report.keep_shared(turn.report, _SHARED_FILES, num_shared)
    return None


def end_uploads(turn: Turn) -> Wait | None:
    """End the uploads in parts of files that no other dataset lists.

    What is sent to a part fails from then on, so this need not wait until addresses expire.
    """
    dataset = Abandoned(tenant_id=turn.tenant_id, dataset_id=turn.target)
    under_way = turn.objects.parts.keys(uploads_prefix(turn.tenant_id))
    with turn.database.transaction() as conn:
        since, contents = abandoned_uploads.unshared(conn, dataset)
    begun = [each for each in contents if upload_key(turn.tenant_id, each) in under_way]
    for start in range(0, len(begun), _FILES_A_BATCH):
        with turn.database.transaction() as conn:
            batch = begun[start : start + _FILES_A_BATCH]
            for sha256 in abandoned_uploads.lock_unshared(conn, dataset, batch, since):
                key = upload_key(turn.tenant_id, sha256)
                report.add_uploads(turn.report, turn.objects.parts.drop(key))
            turn.save(conn, turn.batch)
    return None


def forget_cache(turn: Turn) -> Wait | None:
    """Delete the rows of the tenant's cache, so that nothing is built any more."""
    return _delete_rows(turn, lambda conn: deleted_rows.forget_cache(conn, turn.tenant_id))


def delete_rows(turn: Turn) -> Wait | None:
    """Delete the rows: the last step, since they say what there is to delete."""
    return _delete_rows(turn, lambda conn: deleted_rows.delete_some(conn, turn.deletion))


def _delete_rows(turn: Turn, delete: Callable[[Connection], Counter[str]]) -> Wait | None:
    while True:
        with turn.database.transaction() as conn:
            deleted = delete(conn)
            report.add_rows(turn.report, deleted)
            turn.save(conn, turn.batch)
        fault_point("deletion.rows_deleted")
        if not deleted:
            return None
        if turn.should_end:
            return NEXT_TURN
