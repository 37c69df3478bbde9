"""Delete the uploaded files of datasets that were never completed."""

from datetime import timedelta
from typing import Final

import structlog

from services.metrics.work import objects_swept
from services.objects.errors import ObjectStoreRefusedError
from services.objects.keys import TENANTS_PREFIX, upload_key
from services.objects.port import ObjectStore
from services.results.repeating import IsStopping, never
from services.store import abandoned_uploads
from services.store.abandoned_uploads import Abandoned
from services.store.database import Database

log = structlog.get_logger(__name__)

_DATASETS_A_BATCH: Final = 20
_FILES_A_BATCH: Final = 50
"""Meanwhile the tenant can create nothing."""


def sweep_abandoned(
    database: Database,
    objects: ObjectStore,
    *,
    after: timedelta,
    is_stopping: IsStopping = never,
) -> int:
    """Expire datasets that were left alone for this long; returns how many objects it deleted.

    Uploads in parts that are as old are ended, too, also those of datasets that were completed.
    Files that the store refuses to delete are tried again by the next call. Raises any other
    ObjectStoreError, DatabaseDownError or DatabaseBusyError; the next call continues.
    """
    with database.transaction() as conn:
        abandoned_uploads.expire(conn, after=after, limit=_DATASETS_A_BATCH)
    with database.transaction() as conn:
        found = abandoned_uploads.abandoned(conn, _DATASETS_A_BATCH)
    num_deleted = 0
    for dataset in found:
        try:
            num_deleted += _delete_files(database, objects, dataset, is_stopping)
        except ObjectStoreRefusedError as error:  # such as a file under an object lock
            log.warning("files_not_deleted", dataset_id=dataset.dataset_id, reason=str(error))
    if is_stopping():
        return num_deleted
    if num_aborted := objects.parts.abort(TENANTS_PREFIX, older_than=after):
        log.info("uploads_aborted", num_uploads=num_aborted)
    return num_deleted


def _delete_files(
    database: Database, objects: ObjectStore, dataset: Abandoned, is_stopping: IsStopping
) -> int:
    with database.transaction() as conn:
        since, contents = abandoned_uploads.unshared(conn, dataset)
    num_deleted = 0
    for start in range(0, len(contents), _FILES_A_BATCH):
        if is_stopping():
            return num_deleted
        batch = contents[start : start + _FILES_A_BATCH]
        with database.transaction() as conn:
            for sha256 in abandoned_uploads.lock_unshared(conn, dataset, batch, since):
                objects.delete(upload_key(dataset.tenant_id, sha256))
                objects_swept.inc()
                num_deleted += 1
    with database.transaction() as conn:
        abandoned_uploads.end(conn, dataset)
    log.info(
        "upload_expired",
        tenant_id=dataset.tenant_id,
        dataset_id=dataset.dataset_id,
        num_objects=num_deleted,
    )
    return num_deleted
