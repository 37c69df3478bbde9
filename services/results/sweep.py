"""Delete the objects of lost attempts and replaced checkpoints, which no row references."""

from datetime import timedelta
from typing import Final

import structlog

from services.objects.errors import ObjectStoreRefusedError
from services.objects.keys import attempts_prefix, sample_key
from services.objects.port import ObjectStore
from services.results.deleted_objects import delete_objects
from services.results.repeating import IsStopping, never
from services.store import unreferenced
from services.store.database import Database
from services.store.unreferenced import RunToSweep

log = structlog.get_logger(__name__)

_RUNS_A_BATCH: Final = 20
_REFUSED_PAUSE: Final = timedelta(hours=1)


def sweep_runs(database: Database, objects: ObjectStore, *, is_stopping: IsStopping = never) -> int:
    """Sweep all runs that are due; returns the number of objects deleted.

    A run whose objects the store refuses to delete is tried again after an hour. Raises any other
    ObjectStoreError, DatabaseDownError or DatabaseBusyError; the next sweep continues.
    """
    num_deleted = 0
    while True:
        with database.transaction() as conn:
            due = unreferenced.runs_to_sweep(conn, _RUNS_A_BATCH)
        for run in due:
            if is_stopping():
                return num_deleted
            num_deleted += _sweep_run(database, objects, run)
        if not due:
            return num_deleted


def _sweep_run(database: Database, objects: ObjectStore, run: RunToSweep) -> int:
    # Listed before the rows are read, so what is committed in between counts as referenced.
    prefix = attempts_prefix(run.tenant_id, run.run_id)
    under_way = objects.parts.keys(prefix)
    keys = list(objects.list_keys(prefix))
    with database.transaction() as conn:
        referenced = unreferenced.referenced_prefixes(conn, run.run_id)
        pictures = {
            sample_key(run.tenant_id, run.run_id, fence, sha256)
            for fence, sha256 in unreferenced.samples(conn, run)
        }
    if referenced is None:
        return 0
    unreferenced_keys = [
        key for key in keys if key not in pictures and is_unreferenced(key, prefix, run, referenced)
    ]
    try:
        # A worker that was cut off may still send a large file, which would be there after this.
        for key in under_way:
            if is_unreferenced(key, prefix, run, referenced):
                objects.parts.drop(key)
        delete_objects(objects, unreferenced_keys)
    except ObjectStoreRefusedError as error:  # such as an object lock; other runs can be swept
        log.warning("run_not_swept", run_id=run.run_id, reason=str(error))
        with database.transaction() as conn:
            unreferenced.postpone(conn, run, after=_REFUSED_PAUSE)
        return 0
    with database.transaction() as conn:
        unreferenced.mark_swept(conn, run)
    if unreferenced_keys:
        log.info("run_swept", run_id=run.run_id, num_objects=len(unreferenced_keys))
    return len(unreferenced_keys)


def is_unreferenced(key: str, prefix: str, run: RunToSweep, referenced: frozenset[str]) -> bool:
    """Whether an object below ``prefix`` (the run's attempts) may be deleted.

    Attempts under an older fence have ended. So has the newest one where no worker holds the run.
    A holder may still be writing its result and checkpoints after the committed one.
    """
    if any(key.startswith(each) for each in referenced):
        return False
    fence, _, rest = key.removeprefix(prefix).partition("/")
    if not fence.isdigit() or int(fence) > run.fence:
        return False  # not an attempt's object, or the attempt was claimed after ``run`` was read
    if int(fence) < run.fence or not run.is_held:
        return True
    kind, _, name = rest.partition("/")
    step = name.partition("/")[0].removeprefix("step-")
    return kind == "checkpoints" and step.isdigit() and int(step) < run.checkpoint_step
