"""The files of a stored folder as signed links, listed by the folder's manifest."""

from typing import Final

import structlog

from services.api.runs.shapes import File
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import folder_files
from services.objects.port import ObjectStore

log = structlog.get_logger(__name__)

EXPIRES_S: Final = 3600


def files_of(store: ObjectStore, key_prefix: str, manifest_sha256: str) -> list[File]:
    """Every file that the manifest names; none where the folder cannot be used.

    Retention may have deleted it meanwhile. Where its manifest is damaged, the log says so.
    """
    try:
        files = folder_files(store, key_prefix, manifest_sha256)
    except ObjectMissingError:
        return []
    except ObjectCorruptError as error:
        log.error("folder_damaged", reason=str(error))
        return []
    return [
        File(
            path=name,
            size_bytes=facts.size_bytes,
            sha256=facts.sha256,
            url=store.sign_get(key_prefix + name, expires_s=EXPIRES_S),
        )
        for name, facts in sorted(files.items())
    ]
