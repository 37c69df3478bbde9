"""Shards on every object store: complete or not there at all, and read one entry at a time."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.domain.ids import new_id
from services.domain.ledger import CachedShard
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.keys import shard_prefix
from services.objects.port import ObjectStore
from services.objects.shards import delete_shard, get_contents, get_entry, put_shard
from tests.support.shard_files import write_shard
from trainer_core.data.entry_files import damage_of, entry_name, read_entry_file
from trainer_core.weights.entries import BadHeaderError

TENANT, DIGEST = new_id("ten"), "ab" * 32
PREFIX = shard_prefix(TENANT, DIGEST)
MANIFEST = f"{PREFIX}manifest.json"
NAMES = [digit * 64 for digit in "123"]


def bodies(first: bytes = b"numbers") -> dict[str, bytes]:
    return {NAMES[0]: first, NAMES[1]: os.urandom(2 << 20), NAMES[2]: b"x"}


def put(store: ObjectStore, folder: Path, entries: Mapping[str, bytes]) -> CachedShard:
    return put_shard(store, TENANT, DIGEST, "latents", write_shard(folder / "shard", entries))


def content_of(store: ObjectStore) -> str:
    """The key of the shard's file."""
    (key,) = [key for key in store.list_keys(PREFIX) if key != MANIFEST]
    return key


def tensor_of(path: Path) -> bytes:
    """The bytes of the one tensor in the file of an entry."""
    found = read_entry_file(path)
    (entry,) = found.header.entries.values()
    return bytes(found.buffer[entry.offset_bytes : entry.offset_bytes + entry.size_bytes])


@pytest.fixture
def back(tmp_path: Path) -> Path:
    (tmp_path / "back").mkdir()
    return tmp_path / "back"


def test_each_entry_comes_back_as_a_file_of_its_own(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    entries = bodies()

    shard = put(store, tmp_path, entries)

    assert shard.entries == {digest: len(body) for digest, body in entries.items()}
    assert shard.size_bytes == (tmp_path / "shard").stat().st_size
    contents = get_contents(store, TENANT, shard)
    for number, (digest, body) in enumerate(entries.items(), start=1):
        get_entry(store, contents, digest, back)
        assert damage_of(back / entry_name(digest)) is None
        assert tensor_of(back / entry_name(digest)) == body
        assert len(list(back.iterdir())) == number, "no other entry, and no draft"
    key = f"{PREFIX}{hashlib.sha256((tmp_path / 'shard').read_bytes()).hexdigest()}.safetensors"
    assert list(store.list_keys(PREFIX)) == [key, MANIFEST]


def test_the_loser_of_a_race_adopts_the_shard(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    first = bodies()
    shard = put(store, tmp_path, first)

    assert put(store, tmp_path, bodies(b"other numbers")) == shard
    assert put(store, tmp_path, first) == shard

    assert len(list(store.list_keys(PREFIX))) == 2
    get_entry(store, get_contents(store, TENANT, shard), NAMES[0], back)
    assert tensor_of(back / entry_name(NAMES[0])) == b"numbers"


def test_a_manifest_whose_content_is_gone_is_replaced(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    put(store, tmp_path, bodies())
    store.delete(content_of(store))

    shard = put(store, tmp_path, bodies(b"other numbers"))

    get_entry(store, get_contents(store, TENANT, shard), NAMES[0], back)
    assert tensor_of(back / entry_name(NAMES[0])) == b"other numbers"


def test_a_manifest_without_one_of_the_entries_is_replaced(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    entries = bodies()
    put(store, tmp_path, {digest: entries[digest] for digest in NAMES[:2]})

    shard = put(store, tmp_path, entries)

    assert shard.entries.keys() == entries.keys()
    get_entry(store, get_contents(store, TENANT, shard), NAMES[2], back)
    assert tensor_of(back / entry_name(NAMES[2])) == entries[NAMES[2]]
    less = {digest: entries[digest] for digest in NAMES[:2]}
    assert put(store, tmp_path, less) == shard, "one with more entries is adopted"


def damage(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(damage(-1), id="one bit"),
        pytest.param(lambda body: body[:-1], id="cut off"),
        pytest.param(lambda body: body[:100], id="cut off long before"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda body: b"." + body, id="moved"),
    ],
)
def test_a_damaged_entry_is_named_and_leaves_nothing(
    store: ObjectStore, tmp_path: Path, back: Path, change: Callable[[bytes], bytes]
) -> None:
    entries = bodies()
    shard = put(store, tmp_path, entries)
    key = content_of(store)
    store.put_bytes(key, change(store.get_bytes(key, limit_bytes=4 << 20)))
    contents = get_contents(store, TENANT, shard)

    with pytest.raises(ObjectCorruptError, match=f"{key}.*{NAMES[2]}"):
        get_entry(store, contents, NAMES[2], back)
    assert list(back.iterdir()) == []

    assert put(store, tmp_path, entries) == shard, "building it again repairs it"
    get_entry(store, contents, NAMES[2], back)
    assert tensor_of(back / entry_name(NAMES[2])) == b"x"


def test_damage_elsewhere_in_the_shard_hurts_no_entry(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    shard = put(store, tmp_path, bodies())
    key = content_of(store)
    store.put_bytes(key, damage(-1)(store.get_bytes(key, limit_bytes=4 << 20)))
    contents = get_contents(store, TENANT, shard)

    for digest in NAMES[:2]:
        get_entry(store, contents, digest, back)
        assert damage_of(back / entry_name(digest)) is None


def test_what_is_gone_is_missing(store: ObjectStore, tmp_path: Path, back: Path) -> None:
    shard = put(store, tmp_path, bodies())
    contents = get_contents(store, TENANT, shard)
    store.delete(content_of(store))
    with pytest.raises(ObjectMissingError):
        get_entry(store, contents, NAMES[0], back)
    with pytest.raises(ObjectCorruptError, match=f"has no entry {'9' * 64}"):
        get_entry(store, contents, "9" * 64, back)

    delete_shard(store, TENANT, shard)
    assert list(store.list_keys(PREFIX)) == []
    with pytest.raises(ObjectMissingError):
        get_contents(store, TENANT, shard)
    assert list(back.iterdir()) == []


def test_shards_that_were_swapped_are_refused(
    store: ObjectStore, tmp_path: Path, back: Path
) -> None:
    digests = (DIGEST, "cd" * 32)
    shards, keys = [], []
    for number, digest in enumerate(digests):
        file = write_shard(tmp_path / digest, {NAMES[0]: str(number).encode()})
        shards.append(put_shard(store, TENANT, digest, "text", file))
        keys.append(next(store.list_keys(shard_prefix(TENANT, digest))))
    swapped = [store.get_bytes(key, limit_bytes=10_000) for key in reversed(keys)]
    for key, body in zip(keys, swapped, strict=True):
        store.put_bytes(key, body)

    for shard in shards:
        contents = get_contents(store, TENANT, shard)
        with pytest.raises(ObjectCorruptError):
            get_entry(store, contents, NAMES[0], back)


def test_only_a_shard_is_stored(store: ObjectStore, tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole", bodies()).read_bytes()
    for body in (b"", b"no shard", whole[:-1], whole + b"."):
        (tmp_path / "shard").write_bytes(body)
        with pytest.raises(BadHeaderError):
            put_shard(store, TENANT, DIGEST, "text", tmp_path / "shard")
    assert list(store.list_keys(PREFIX)) == []


def _without(*names: str) -> Callable[[dict[str, Any]], Any]:
    def change(manifest: dict[str, Any]) -> Any:
        place = manifest
        for name in names[:-1]:
            place = place[name]
        del place[names[-1]]
        return manifest

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_without("entries"), id="no entries"),
        pytest.param(_without("files"), id="no files"),
        pytest.param(_without("entries", NAMES[0], "sha256"), id="no digest"),
        pytest.param(lambda m: {**m, "entries": []}, id="entries of another kind"),
        pytest.param(lambda m: {**m, "entries": {NAMES[0]: 5}}, id="no place"),
        pytest.param(
            lambda m: {**m, "files": {**m["files"], "b": {"size_bytes": 1, "sha256": "c"}}},
            id="two files",
        ),
        pytest.param(lambda m: {**m, "files": {}}, id="no file"),
        pytest.param(lambda m: [m], id="a list"),
    ],
)
def test_a_bad_manifest_is_refused(
    store: ObjectStore, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    shard = put(store, tmp_path, bodies())
    manifest = json.dumps(change(json.loads(store.get_bytes(MANIFEST, limit_bytes=10_000))))
    store.put_bytes(MANIFEST, manifest.encode())
    other = CachedShard(
        digest=DIGEST,
        kind="latents",
        manifest_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
        size_bytes=1,
    )

    with pytest.raises(ObjectCorruptError, match="not the manifest"):
        get_contents(store, TENANT, shard)
    with pytest.raises(ObjectCorruptError, match=r"manifest\.json"):
        get_contents(store, TENANT, other)
