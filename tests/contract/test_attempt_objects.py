"""The files of an attempt by signed URLs: what the other contracts ask of each store itself."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.domain.ids import new_id
from services.domain.ledger import CachedShard, Claim, StoredCheckpoint
from services.domain.starts import StartObject, StoredStart
from services.objects.errors import (
    InvalidKeyError,
    ObjectCorruptError,
    ObjectMissingError,
    ObjectTooBigError,
)
from services.objects.folders import get_folder, put_folder
from services.objects.keys import checkpoint_prefix, upload_key
from services.objects.open import open_store
from services.objects.port import AttemptObjects, ObjectStore
from services.objects.shards import get_contents, get_entry, put_shard
from services.settings.env import Settings
from tests.support.boxes import Box
from tests.support.fleet import Fleet
from tests.support.rgw import Bucket, S3Server
from tests.support.runs import TenantDatabase
from tests.support.service import database_of
from tests.support.shard_files import write_shard
from trainer_core.data.entry_files import damage_of, entry_name


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt of a machine over HTTPS, and the store past it."""

    tenant_db: TenantDatabase
    claim: Claim
    objects: AttemptObjects
    store: ObjectStore

    @property
    def prefix(self) -> str:
        claim = self.claim
        return checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, 5)

    def commit(self, folder: Path) -> StoredCheckpoint:
        """Store the folder as a checkpoint, from which the run may be resumed."""
        files = put_folder(self.objects, self.prefix, folder)
        stored = StoredCheckpoint(step=5, files=files)
        self.tenant_db.ledger.commit_checkpoint(self.claim.run_id, self.claim.fence, stored)
        return stored


@pytest.fixture(scope="module")
def bucket(rgw_server: S3Server) -> Bucket:
    return rgw_server.create_bucket()


@pytest.fixture(scope="module", params=["folder", pytest.param("s3", marks=pytest.mark.deep)])
def fleet(request: pytest.FixtureRequest, fleet_of: Callable[..., Fleet]) -> Fleet:
    """The API over each store."""
    if request.param == "folder":
        fleet = fleet_of()
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        fleet = fleet_of(REVERIE_OBJECTS_URL=bucket.url, **bucket.env)
    fleet.start_api()
    return fleet


@pytest.fixture
def attempt(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempt]:
    for name, value in fleet.env.items():
        if name.startswith("AWS_"):  # S3 clients read credentials only from there
            monkeypatch.setenv(name, value)
    with database_of(fleet) as database:
        tenant_db = TenantDatabase.new(database)
        run_id = tenant_db.claimable().run_id
        box = Box(fleet.url, database)
        box.is_offered(run_id)
        claim = box.claims(run_id)
        assert claim is not None
        yield Attempt(
            tenant_db=tenant_db,
            claim=claim,
            objects=box.objects,
            store=open_store(Settings.from_env(fleet.env)),
        )


def make_folder(folder: Path) -> Path:
    """A folder with a manifest, as training writes it."""
    (folder / "samples").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(3 << 20))
    (folder / "samples" / "0.png").write_bytes(b"picture")
    files = {
        name: {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("weights.safetensors", "samples/0.png")
    }
    manifest = json.dumps({"version": 1, "kind": "checkpoint", "files": files})
    (folder / "manifest.json").write_text(manifest)
    return folder


def test_a_folder_comes_back_byte_for_byte(attempt: Attempt, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    stored = attempt.commit(folder)
    assert put_folder(attempt.objects, attempt.prefix, folder) == stored.files, "again is harmless"

    get_folder(attempt.objects, stored.files, tmp_path / "back")

    for name in ("weights.safetensors", "samples/0.png", "manifest.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_is_never_committed_over_another(attempt: Attempt, tmp_path: Path) -> None:
    put_folder(attempt.objects, attempt.prefix, make_folder(tmp_path / "one"))

    with pytest.raises(ObjectCorruptError, match="another manifest"):
        put_folder(attempt.objects, attempt.prefix, make_folder(tmp_path / "two"))


@pytest.mark.parametrize("damage", ["content", "length", "gone", "manifest", "manifest_gone"])
def test_a_damaged_or_incomplete_folder_is_refused(
    attempt: Attempt, tmp_path: Path, damage: str
) -> None:
    stored = attempt.commit(make_folder(tmp_path / "out"))
    picture, manifest = attempt.prefix + "samples/0.png", attempt.prefix + "manifest.json"
    match damage:
        case "content":
            attempt.store.put_bytes(picture, b"pictur3")
        case "length":
            attempt.store.put_bytes(picture, b"picture.")
        case "gone":
            attempt.store.delete(picture)
        case "manifest":
            attempt.store.put_bytes(manifest, b'{"files":{}}')
        case "manifest_gone":
            attempt.store.delete(manifest)

    with pytest.raises((ObjectCorruptError, ObjectMissingError), match=attempt.prefix):
        get_folder(attempt.objects, stored.files, tmp_path / "back")
    assert not (tmp_path / "back" / "manifest.json").exists()


def test_of_two_manifests_the_first_one_is_there(attempt: Attempt) -> None:
    key = attempt.prefix + "manifest.json"
    assert attempt.objects.commit_once(key, b"ours") is True
    assert attempt.objects.commit_once(key, b"theirs") is False
    assert attempt.objects.commit_once(key, b"ours") is True, "our own reply may get lost"
    assert attempt.store.get_bytes(key, limit_bytes=10) == b"ours"


def test_a_second_put_replaces(attempt: Attempt, tmp_path: Path) -> None:
    key = attempt.prefix + "a"
    for body in (b"old", b"newer", b""):
        (tmp_path / "file").write_bytes(body)
        attempt.objects.put_file(key, tmp_path / "file")
        assert attempt.store.get_bytes(key, limit_bytes=10) == body


def test_an_object_above_the_size_limit_is_not_read(attempt: Attempt, tmp_path: Path) -> None:
    attempt.commit(make_folder(tmp_path / "out"))
    key = attempt.prefix + "samples/0.png"
    assert attempt.objects.get_bytes(key, limit_bytes=7) == b"picture"
    with pytest.raises(ObjectTooBigError):
        attempt.objects.get_bytes(key, limit_bytes=6)


def test_a_missing_object_is_named(attempt: Attempt, tmp_path: Path) -> None:
    key = attempt.prefix + "missing"
    for read in (
        lambda: attempt.objects.get_bytes(key, limit_bytes=10),
        lambda: attempt.objects.get_to(key, tmp_path / "dest"),
        lambda: range_of(attempt, key, 0, 5),
    ):
        with pytest.raises(ObjectMissingError, match=key):
            read()
    assert not (tmp_path / "dest").exists()


def test_a_key_that_leads_outside_is_refused(attempt: Attempt, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    for key in ("../x", f"{attempt.prefix}../../x", "/etc/passwd", "a//b", ".hidden", ""):
        with pytest.raises(InvalidKeyError):
            attempt.objects.put_file(key, tmp_path / "file")
        with pytest.raises(InvalidKeyError):
            attempt.objects.get_to(key, tmp_path / "dest")


def test_the_adapter_that_the_run_starts_from_is_read_and_no_neighbour_of_it(
    attempt: Attempt, tmp_path: Path
) -> None:
    tenant_id, run_id = attempt.claim.tenant_id, attempt.claim.run_id
    keys = [upload_key(tenant_id, digit * 64) for digit in "12"]
    for key in keys:
        attempt.store.put_bytes(key, b"adapter")
    only = StartObject(name="a.safetensors", key=keys[0], sha256="1" * 64, size_bytes=7)
    start = StoredStart(source=new_id("ds"), step=None, files=(only,))
    with attempt.tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE runs SET start_adapter = %s WHERE run_id = %s",
            (json.dumps(start.as_json()), run_id),
        )

    attempt.objects.get_to(keys[0], tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == b"adapter"
    with pytest.raises(ObjectMissingError):
        attempt.objects.get_to(keys[1], tmp_path / "other")


def store_shard(attempt: Attempt, folder: Path, entries: dict[str, bytes]) -> CachedShard:
    """The shard that the run needs, with these entries, in the store."""
    (needed,) = attempt.claim.shards
    file = write_shard(folder / "shard", entries)
    return put_shard(attempt.store, attempt.claim.tenant_id, needed.digest, "latents", file)


def test_the_shards_of_the_run_are_read(attempt: Attempt, tmp_path: Path) -> None:
    entries = {"1" * 64: b"numbers", "2" * 64: os.urandom(3 << 20)}
    shard = store_shard(attempt, tmp_path, entries)
    (tmp_path / "back").mkdir()

    contents = get_contents(attempt.objects, attempt.claim.tenant_id, shard)
    for digest in entries:
        get_entry(attempt.objects, contents, digest, tmp_path / "back")
        assert damage_of(tmp_path / "back" / entry_name(digest)) is None

    body = attempt.store.get_bytes(contents.key, limit_bytes=4 << 20)
    for start, size_bytes in ((0, 1), (100, 2 << 20), (len(body) - 5, 99)):
        found = range_of(attempt, contents.key, start, size_bytes)
        assert found == body[start : start + size_bytes]
    assert range_of(attempt, contents.key, len(body), 7) == b""
    attempt.store.delete(contents.key)
    with pytest.raises(ObjectMissingError, match=contents.key):
        range_of(attempt, contents.key, 0, 5)


def range_of(attempt: Attempt, key: str, start: int, size_bytes: int) -> bytes:
    with attempt.objects.open_range(key, start=start, size_bytes=size_bytes) as pieces:
        return b"".join(pieces)


def test_the_entries_of_another_tenants_shard_are_not_read(
    attempt: Attempt, tmp_path: Path
) -> None:
    (needed,) = attempt.claim.shards
    file = write_shard(tmp_path / "shard", {"1" * 64: b"secret"})
    other = put_shard(attempt.store, new_id("ten"), needed.digest, "latents", file)
    elsewhere = put_shard(attempt.store, attempt.claim.tenant_id, "9" * 64, "latents", file)
    other_tenant = attempt.tenant_db.neighbour().tenant_id
    put_shard(attempt.store, other_tenant, needed.digest, "latents", file)

    for tenant_id, shard in ((other_tenant, other), (attempt.claim.tenant_id, elsewhere)):
        with pytest.raises(ObjectMissingError):
            get_contents(attempt.objects, tenant_id, shard)
        contents = get_contents(attempt.store, tenant_id, shard)
        with pytest.raises(ObjectMissingError):
            range_of(attempt, contents.key, 0, 5)
