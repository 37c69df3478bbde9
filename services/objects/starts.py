"""Reads what a stored adapter is from its first bytes, without fetching it."""

from typing import Final

from pydantic import ValidationError

from services.domain.ids import is_id
from services.domain.starts import StartObject, StoredStart, shown
from services.objects.folders import MANIFEST_LIMIT_BYTES
from services.objects.port import ObjectStore
from trainer_core.checkpoint.layout import CheckpointManifest
from trainer_core.errors import AdapterFileError
from trainer_core.export.start_file import state_file
from trainer_core.weights.entries import (
    LENGTH_BYTES,
    BadHeaderError,
    Header,
    header_bytes,
    parse_header,
)
from trainer_core.weights.start_adapter import (
    MAX_HEADER_BYTES,
    MAX_UPLOAD_HEADER_BYTES,
    FoundStart,
)

_FIRST_BYTES: Final = 256 << 10
"""Most headers are shorter, and need one request."""


def find_stored_start(objects: ObjectStore, start: StoredStart) -> FoundStart:
    """What the stored adapter holds, for the check whether it fits a run.

    Raises AdapterFileError where it is no adapter of a kind that is known, ObjectMissingError where
    it is gone, and what the store raises.
    """
    name, file = shown(start), start.files[0]
    limit_bytes = MAX_UPLOAD_HEADER_BYTES if is_id(start.source, "ds") else MAX_HEADER_BYTES
    try:
        header = _header(objects, name, file, limit_bytes)
    except BadHeaderError as error:
        raise AdapterFileError(str(error)) from error
    state = None
    if start.step is not None:
        manifest = objects.get_bytes(start.files[1].key, limit_bytes=MANIFEST_LIMIT_BYTES)
        try:
            identity = CheckpointManifest.model_validate_json(manifest).identity
        except ValidationError as error:
            raise AdapterFileError(f"{name} has no readable manifest") from error
        state = state_file(name, header, identity)
    return FoundStart(name=name, sha256=file.sha256, header=header, state=state)


def _header(objects: ObjectStore, name: str, file: StartObject, limit_bytes: int) -> Header:
    first, size_bytes = objects.get_first(file.key, _FIRST_BYTES), file.size_bytes
    length = header_bytes(first[:LENGTH_BYTES], size_bytes, name, limit_bytes=limit_bytes)
    end = LENGTH_BYTES + length
    if end > len(first):
        first = objects.get_first(file.key, end)
    return parse_header(first[LENGTH_BYTES:end], size_bytes, name)
