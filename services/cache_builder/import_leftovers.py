"""Deletes what an import has stored for rows that gave something else when they were repeated."""

from typing import Final

import structlog

from services.objects.errors import ObjectStoreRefusedError
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.store import abandoned_uploads, import_leftovers, imports
from services.store.abandoned_uploads import Abandoned
from services.store.database import Database
from services.store.imports import Import

log = structlog.get_logger(__name__)

_FILES_A_BATCH: Final = 50
"""Meanwhile the tenant can create nothing."""


def delete_leftovers(database: Database, objects: ObjectStore, work: Import) -> None:
    """Call it before the import is finished, which deletes the rows.

    Nothing is deleted where another builder has the import. Raises ObjectStoreDownError.
    """
    dataset = Abandoned(tenant_id=work.tenant_id, dataset_id=work.dataset_id)
    with database.transaction() as conn:
        since, contents = import_leftovers.find(conn, dataset)
    for start in range(0, len(contents), _FILES_A_BATCH):
        batch = contents[start : start + _FILES_A_BATCH]
        with database.transaction() as conn:
            unshared = abandoned_uploads.lock_unshared(conn, dataset, batch, since)
            if not imports.hold(conn, work):
                return
            for sha256 in unshared:
                try:
                    objects.delete(upload_key(work.tenant_id, sha256))
                except ObjectStoreRefusedError as error:  # such as a file under an object lock
                    log.warning("leftover_not_deleted", sha256=sha256, reason=str(error))
