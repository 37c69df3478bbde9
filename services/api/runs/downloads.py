"""The files of a stored folder as signed links, listed by the folder's manifest."""

from typing import Final

import structlog

from services.api.runs.shapes import File
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import FileFacts, folder_contents
from services.objects.keys import MANIFEST_NAME
from services.objects.port import ObjectStore

log = structlog.get_logger(__name__)

EXPIRES_S: Final = 3600


def files_of(store: ObjectStore, key_prefix: str, manifest_sha256: str) -> list[File]:
    """Every file that the manifest names; none where the folder cannot be used."""
    return [
        signed_file(store, name, key_prefix + name, facts)
        for name, facts in sorted(contents_of(store, key_prefix, manifest_sha256).items())
        if name != MANIFEST_NAME
    ]


def contents_of(store: ObjectStore, key_prefix: str, manifest_sha256: str) -> dict[str, FileFacts]:
    """The files of a folder and its manifest, by name; none where the folder cannot be used.

    Retention may have deleted it meanwhile. Where its manifest is damaged, the log says so.
    """
    try:
        return folder_contents(store, key_prefix, manifest_sha256)
    except ObjectMissingError:
        return {}
    except ObjectCorruptError as error:
        log.error("folder_damaged", reason=str(error))
        return {}


def signed_file(store: ObjectStore, path: str, key: str, facts: FileFacts) -> File:
    """``path``: what the tenant calls the file."""
    return File(
        path=path,
        size_bytes=facts.size_bytes,
        sha256=facts.sha256,
        url=store.sign_get(key, expires_s=EXPIRES_S),
    )
