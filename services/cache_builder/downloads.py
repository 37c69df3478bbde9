"""Downloads of what tenants have uploaded."""

from pathlib import Path
from typing import Final

from services.objects.keys import upload_key
from services.objects.local_files import sha256_of
from services.objects.port import ObjectStore

_DOWNLOADS: Final = 2
"""Damage on the way is repaired by a second one."""


def download_upload(objects: ObjectStore, tenant_id: str, sha256: str, local: Path) -> bool:
    """Download an upload by its content; False where the object store has another content.

    Raises ObjectMissingError, ObjectStoreDownError or ObjectStoreRefusedError.
    """
    for _ in range(_DOWNLOADS):
        objects.get_to(upload_key(tenant_id, sha256), local)
        if sha256_of(local) == sha256:
            return True
    return False
