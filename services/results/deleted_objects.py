"""Deleting objects of folders, so that a kill at any moment leaves none that looks complete."""

from collections.abc import Iterable

from services.metrics.work import objects_swept
from services.objects.keys import MANIFEST_NAME
from services.objects.port import ObjectStore


def delete_objects(objects: ObjectStore, keys: Iterable[str]) -> None:
    """Delete all of these, manifests first: a folder without its manifest is not complete.

    Raises ObjectStoreError.
    """
    for key in sorted(keys, key=lambda key: (not key.endswith(f"/{MANIFEST_NAME}"), key)):
        objects.delete(key)
        objects_swept.inc()
