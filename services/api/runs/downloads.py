"""The files of a stored folder as signed links, listed by the folder's manifest."""

import hashlib
import json
from typing import Final

from services.api.runs.shapes import File
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import MANIFEST_LIMIT_BYTES
from services.objects.keys import MANIFEST_NAME
from services.objects.port import ObjectStore

EXPIRES_S: Final = 3600


def files_of(store: ObjectStore, key_prefix: str, manifest_sha256: str) -> list[File]:
    """Every file that the manifest names; none where retention deleted the folder meanwhile.

    Raises ObjectCorruptError where the manifest is not the one that was committed.
    """
    key = key_prefix + MANIFEST_NAME
    try:
        manifest = store.get_bytes(key, limit_bytes=MANIFEST_LIMIT_BYTES)
    except ObjectMissingError:
        return []
    if hashlib.sha256(manifest).hexdigest() != manifest_sha256:
        raise ObjectCorruptError(key, "is not the manifest that was committed")
    return [
        File(
            path=name,
            size_bytes=facts["size_bytes"],
            sha256=facts["sha256"],
            url=store.sign_get(key_prefix + name, expires_s=EXPIRES_S),
        )
        for name, facts in sorted(json.loads(manifest)["files"].items())
    ]
