"""Cache shards in the object store: a file, and a manifest that says where each entry is in it.

An entry is read as one range of the file and checked, without the rest.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from services.domain.ledger import CachedShard
from services.objects.errors import ObjectCorruptError, ObjectMissingError, ObjectTooBigError
from services.objects.folders import MANIFEST_LIMIT_BYTES, FileFacts, files_of, get_manifest
from services.objects.keys import MANIFEST_NAME, shard_prefix
from services.objects.local_files import sha256_of
from services.objects.port import AttemptObjects, ObjectStore
from trainer_core.data.entry_files import entry_name, write_entry_file
from trainer_core.data.shard_files import EntryPlace, read_places
from trainer_core.faultpoints import fault_point

_VERSION: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardContents:
    """The file of a stored shard, and the places of its entries."""

    key: str
    places: dict[str, EntryPlace]
    """By the digests of the entries."""


def put_shard(
    store: ObjectStore, tenant_id: str, digest: str, kind: str, local_file: Path
) -> CachedShard:
    """Store a cache shard. Of two writers the first one wins, and the other adopts its manifest.

    A manifest that is of no use is replaced: its content is gone, or an entry is missing there.

    Args:
        digest: the name of the shard, which depends on the inputs and not on the content.
        kind: ``latents``, ``text`` or ``masks``.
        local_file: as ``trainer_core.data.encode.encode_shard`` wrote it.

    Raises:
        ObjectCorruptError: another builder replaces such a manifest at the same time.
        BadHeaderError: the local file is no shard.
    """
    prefix = shard_prefix(tenant_id, digest)
    places = read_places(local_file)
    facts = FileFacts(size_bytes=local_file.stat().st_size, sha256=sha256_of(local_file))
    name = f"{facts.sha256}.safetensors"
    store.put_file(prefix + name, local_file)
    manifest = json.dumps(
        {
            "version": _VERSION,
            "kind": kind,
            "digest": digest,
            "files": {name: {"size_bytes": facts.size_bytes, "sha256": facts.sha256}},
            "entries": {entry: place.model_dump(mode="json") for entry, place in places.items()},
        },
        sort_keys=True,
    ).encode()
    fault_point("shard.before_manifest")
    if not store.commit_once(prefix + MANIFEST_NAME, manifest):
        earlier = _usable_manifest(store, prefix, places)
        if earlier is None:
            store.delete(prefix + MANIFEST_NAME)
            if not store.commit_once(prefix + MANIFEST_NAME, manifest):
                raise ObjectCorruptError(prefix + MANIFEST_NAME, "changed meanwhile")
        else:
            manifest = earlier
    stored, facts = _contents(manifest, prefix)
    if stored.key != prefix + name:
        store.delete(prefix + name)  # a manifest never changes, so none will name it
    return CachedShard(
        digest=digest,
        kind=kind,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        size_bytes=facts.size_bytes,
        entries={entry: place.size_bytes for entry, place in stored.places.items()},
    )


def _usable_manifest(store: ObjectStore, prefix: str, needed: Collection[str]) -> bytes | None:
    """The manifest that is there; None where its content is gone, or lacks an entry."""
    try:
        manifest = store.get_bytes(prefix + MANIFEST_NAME, limit_bytes=MANIFEST_LIMIT_BYTES)
        contents, facts = _contents(manifest, prefix)
    except (ObjectCorruptError, ObjectMissingError, ObjectTooBigError):
        return None
    is_whole = store.size(contents.key) == facts.size_bytes
    return manifest if is_whole and contents.places.keys() >= set(needed) else None


def get_contents(store: AttemptObjects, tenant_id: str, shard: CachedShard) -> ShardContents:
    """Where the entries of a stored shard are.

    Raises:
        ObjectMissingError: the manifest is gone.
        ObjectCorruptError: it is not the one that was committed.
    """
    prefix = shard_prefix(tenant_id, shard.digest)
    return _contents(get_manifest(store, prefix, shard.manifest_sha256), prefix)[0]


def get_entry(store: AttemptObjects, contents: ShardContents, digest: str, folder: Path) -> None:
    """Fetch one entry of a shard as a file of ``folder``, which appears when it is checked.

    Raises:
        ObjectMissingError: the shard's file is gone.
        ObjectCorruptError: the bytes are not those that the manifest names.
        OSError: the folder cannot be written.
    """
    place = contents.places.get(digest)
    if place is None:
        raise ObjectCorruptError(contents.key, f"has no entry {digest}")
    with store.open_range(
        contents.key, start=place.offset_bytes, size_bytes=place.size_bytes
    ) as pieces:
        write_entry_file(
            folder / entry_name(digest),
            place.facts(),
            place.sha256,
            _checked(pieces, place, f"{contents.key} ({digest})"),
            durable=False,
        )


def delete_shard(store: ObjectStore, tenant_id: str, shard: CachedShard) -> None:
    """Delete a damaged shard: its content, and its manifest last, so that it can be built again."""
    prefix = shard_prefix(tenant_id, shard.digest)
    keys = list(store.list_keys(prefix))
    for key in sorted(keys, key=lambda key: key == prefix + MANIFEST_NAME):
        store.delete(key)


def _checked(pieces: Iterator[bytes], place: EntryPlace, name: str) -> Iterator[bytes]:
    """The pieces; raises ObjectCorruptError at the end where they are not those of the place."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if found.hexdigest() != place.sha256:
        raise ObjectCorruptError(name, "has another SHA-256 than its manifest says")


def _contents(manifest: bytes, prefix: str) -> tuple[ShardContents, FileFacts]:
    key = prefix + MANIFEST_NAME
    files = files_of(manifest, key)
    if len(files) != 1:
        raise ObjectCorruptError(key, f"names {len(files)} files, not one")
    name, facts = next(iter(files.items()))
    try:
        entries: dict[str, Any] = json.loads(manifest)["entries"]
        places = {digest: EntryPlace.model_validate(place) for digest, place in entries.items()}
    except (KeyError, AttributeError, ValidationError) as error:
        raise ObjectCorruptError(key, f"names no entries: {type(error).__name__}") from error
    return ShardContents(key=prefix + name, places=places), facts
