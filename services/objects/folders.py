"""Folders in the object store, closed by a manifest that names every file's size and SHA-256.

Content is stored first; the manifest is stored last, and only where none exists. So a folder that
has a manifest is complete.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from services.domain.ledger import StoredFiles
from services.objects.errors import InvalidKeyError, ObjectCorruptError
from services.objects.keys import MANIFEST_NAME, check_key
from services.objects.local_files import sha256_of
from services.objects.port import AttemptObjects, ObjectStore
from trainer_core.checkpoint.layout import ADAPTER_FILES
from trainer_core.faultpoints import fault_point

MANIFEST_LIMIT_BYTES: Final = 16 << 20
_MOST_BYTES: Final = 1 << 50
"""Of one file, so that the sum of many fits a column of the database."""
_BAD_MANIFEST: Final = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """A file's entry in a manifest."""

    size_bytes: int
    sha256: str


def put_folder(store: AttemptObjects, key_prefix: str, local_dir: Path) -> StoredFiles:
    """Upload the files that ``local_dir/manifest.json`` names, then the manifest, which commits.

    Idempotent: repeat it after an error.

    Raises:
        FileNotFoundError: the manifest or a file that it names is not in ``local_dir``.
        ObjectCorruptError: a local file is not what the manifest says, or another manifest exists.
    """
    manifest = (local_dir / MANIFEST_NAME).read_bytes()
    manifest_key = key_prefix + MANIFEST_NAME
    files = _all_files_of(manifest, manifest_key)
    for name, facts in files.items():
        _check_file(local_dir / name, facts, name)
        store.put_file(key_prefix + name, local_dir / name)
    fault_point("folder.before_manifest")
    if not store.commit_once(manifest_key, manifest):
        raise ObjectCorruptError(manifest_key, "another manifest exists here")
    return _stored(key_prefix, manifest, files)


def get_folder(store: AttemptObjects, stored: StoredFiles, local_dir: Path) -> None:
    """Fetch a stored folder into ``local_dir``; the manifest is written last.

    Of a checkpoint it fetches what a run needs to go on, and no ``adapter_files``. It ends with
    FileNotFoundError where ``local_dir`` is deleted meanwhile.

    Raises:
        ObjectMissingError: the manifest or a file that it names is gone.
        ObjectCorruptError: something is not what its row or its manifest says.
    """
    manifest = get_manifest(store, stored.key_prefix, stored.manifest_sha256)
    local_dir.mkdir(parents=True, exist_ok=True)
    for name, facts in files_of(manifest, stored.key_prefix + MANIFEST_NAME).items():
        path = local_dir / name
        for parent in reversed(path.relative_to(local_dir).parents[:-1]):
            (local_dir / parent).mkdir(exist_ok=True)
        store.get_to(stored.key_prefix + name, path)
        _check_file(path, facts, stored.key_prefix + name)
    (local_dir / MANIFEST_NAME).write_bytes(manifest)


def check_folder(store: ObjectStore, key_prefix: str, scratch: Path) -> StoredFiles:
    """Read a stored folder, file by file through ``scratch``, and check every digest.

    As ``get_folder``, without ``adapter_files``: those that are there are counted.

    Raises:
        ObjectMissingError: the manifest or a file that it names is missing.
        ObjectCorruptError: a file is not what the manifest says.
    """
    manifest = store.get_bytes(key_prefix + MANIFEST_NAME, limit_bytes=MANIFEST_LIMIT_BYTES)
    files = files_of(manifest, key_prefix + MANIFEST_NAME)
    for name, facts in files.items():
        local = scratch / "file"
        store.get_to(key_prefix + name, local)
        _check_file(local, facts, key_prefix + name)
        local.unlink()
    # A run goes on without its adapter files, so a lost one does not damage the folder.
    for name, facts in _adapter_files_of(manifest, key_prefix + MANIFEST_NAME).items():
        if name not in files and store.size(key_prefix + name) == facts.size_bytes:
            files[name] = facts
    return _stored(key_prefix, manifest, files)


def _stored(key_prefix: str, manifest: bytes, files: Mapping[str, FileFacts]) -> StoredFiles:
    return StoredFiles(
        key_prefix=key_prefix,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        size_bytes=sum(facts.size_bytes for facts in files.values()),
    )


def folder_contents(
    store: ObjectStore, key_prefix: str, manifest_sha256: str
) -> dict[str, FileFacts]:
    """All files of a stored folder by name, and the manifest; raises as ``get_folder``."""
    manifest = get_manifest(store, key_prefix, manifest_sha256)
    own = FileFacts(size_bytes=len(manifest), sha256=manifest_sha256)
    return {**_all_files_of(manifest, key_prefix + MANIFEST_NAME), MANIFEST_NAME: own}


def get_manifest(store: AttemptObjects, prefix: str, sha256: str) -> bytes:
    """The manifest of a folder; ObjectCorruptError where it is not the one that was committed."""
    key = prefix + MANIFEST_NAME
    manifest = store.get_bytes(key, limit_bytes=MANIFEST_LIMIT_BYTES)
    if hashlib.sha256(manifest).hexdigest() != sha256:
        raise ObjectCorruptError(key, "is not the manifest that was committed")
    return manifest


def files_of(manifest: bytes, key: str) -> dict[str, FileFacts]:
    """The files that a manifest names; their names are safe to use as keys and as paths."""
    with _refusing(key):
        return _checked(json.loads(manifest)["files"], key)


def _adapter_files_of(manifest: bytes, key: str) -> dict[str, FileFacts]:
    """The ``adapter_files`` of a checkpoint's manifest; of any other there are none."""
    with _refusing(key):
        return _checked(json.loads(manifest).get("scalars", {}).get(ADAPTER_FILES, {}), key)


def _all_files_of(manifest: bytes, key: str) -> dict[str, FileFacts]:
    return _adapter_files_of(manifest, key) | files_of(manifest, key)


@contextmanager
def _refusing(key: str) -> Iterator[None]:
    """Raises ObjectCorruptError for what cannot be read as a manifest."""
    try:
        yield
    except (*_BAD_MANIFEST, InvalidKeyError) as error:
        raise ObjectCorruptError(key, f"is not a manifest: {error!r}") from error


def _checked(files: Mapping[str, Any], key: str) -> dict[str, FileFacts]:
    prefix = key.removesuffix(MANIFEST_NAME)
    named: dict[str, FileFacts] = {}
    for name, each in files.items():
        check_key(name)
        check_key(prefix + name)
        if PurePosixPath(name).name == MANIFEST_NAME:
            raise ObjectCorruptError(key, "names itself")
        facts = FileFacts(size_bytes=int(each["size_bytes"]), sha256=str(each["sha256"]))
        if not 0 <= facts.size_bytes <= _MOST_BYTES:
            raise ValueError(f"{facts.size_bytes} bytes")
        named[name] = facts
    return named


def _check_file(path: Path, facts: FileFacts, name: str) -> None:
    size_bytes = path.stat().st_size
    if size_bytes != facts.size_bytes:
        raise ObjectCorruptError(name, f"has {size_bytes} bytes, not {facts.size_bytes}")
    if sha256_of(path) != facts.sha256:
        raise ObjectCorruptError(name, "has another SHA-256 than its manifest says")
