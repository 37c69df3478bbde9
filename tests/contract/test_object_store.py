"""One contract for every object store: the folder, and S3 as Ceph RGW speaks it."""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import httpx
import pytest

from services.domain.ids import new_id
from services.domain.ledger import CachedShard, StoredFiles
from services.objects.errors import (
    BadSignatureError,
    ConditionalWritesError,
    InvalidKeyError,
    ObjectCorruptError,
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreError,
    ObjectStoreRefusedError,
    ObjectTooBigError,
)
from services.objects.folder_store import FolderStore
from services.objects.folders import get_folder, get_shard, put_folder, put_shard
from services.objects.keys import shard_prefix, upload_key
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from services.objects.signing import UrlSigner, verify_signed
from services.settings.env import Settings
from tests.support.rgw import Bucket

_SIGNING_KEY = b"0123456789abcdef"
_BODY = b"the quick brown fox" * 50
_SHA256 = hashlib.sha256(_BODY).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    name = "folder_store" if request.param == "folder" else "s3_store"
    made: ObjectStore = request.getfixturevalue(name)
    return made


@pytest.fixture
def folder_store(tmp_path: Path) -> Iterator[FolderStore]:
    """A folder whose signed URLs are served by the smallest possible server."""
    handler = type("Handler", (_SignedUrls,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        made = FolderStore(tmp_path / "objects", UrlSigner(api_url=url, signing_key=_SIGNING_KEY))
        handler.store = made  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def s3_store(rgw_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    return _open_bucket(rgw_bucket, monkeypatch)


def _open_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    made = open_store(Settings.from_env({"REVERIE_OBJECTS_URL": bucket.url}))
    assert isinstance(made, S3Store)
    return made


class _SignedUrls(BaseHTTPRequestHandler):
    """GET and PUT below /objects/ for whoever shows a good signature."""

    store: FolderStore

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(lambda key, _: self.store.get_bytes(key, limit_bytes=1 << 20))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))

        def receive(key: str, grant: Any) -> bytes:
            self.store.receive(key, [body], size_bytes=grant.size_bytes, sha256=grant.sha256)
            return b""

        self._answer(receive)

    def _answer(self, work: Callable[[str, Any], bytes]) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/objects/")
        query = dict(parse_qsl(parts.query))
        try:
            grant = verify_signed(key, query, _SIGNING_KEY, _now(), self.command)
            status, body = 200, work(key, grant)
        except BadSignatureError:
            status, body = 403, b""
        except ObjectStoreError:
            status, body = 400, b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


# --- reading and writing


def test_what_was_put_is_what_is_read(store: ObjectStore, tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    source.write_bytes(os.urandom(3 << 20))

    store.put_file("a/b.bin", source)
    store.put_bytes("a/c", b"")
    store.get_to("a/b.bin", dest)

    assert dest.read_bytes() == source.read_bytes()
    assert store.size("a/b.bin") == 3 << 20
    assert store.get_bytes("a/c", limit_bytes=0) == b""
    assert list(tmp_path.glob(".dest*")) == []


def test_a_second_put_replaces(store: ObjectStore) -> None:
    store.put_bytes("a", b"old")
    store.put_bytes("a", b"new")

    assert store.get_bytes("a", limit_bytes=10) == b"new"


def test_a_missing_object_is_named(store: ObjectStore, tmp_path: Path) -> None:
    for read in (
        lambda: store.get_bytes("no/such", limit_bytes=10),
        lambda: store.get_to("no/such", tmp_path / "dest"),
    ):
        with pytest.raises(ObjectMissingError, match="no/such"):
            read()
    assert store.size("no/such") is None
    assert not (tmp_path / "dest").exists()


def test_a_reader_with_a_limit_never_takes_more(store: ObjectStore) -> None:
    store.put_bytes("a", b"12345")

    assert store.get_bytes("a", limit_bytes=5) == b"12345"
    with pytest.raises(ObjectTooBigError):
        store.get_bytes("a", limit_bytes=4)


def test_delete_is_done_once_and_harmless_twice(store: ObjectStore) -> None:
    store.put_bytes("a/b", b"1")

    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")

    assert store.size("a/b") is None


def test_listing_is_sorted_and_stays_below_its_prefix(store: ObjectStore) -> None:
    for key in ("r/2/x", "r/1/b/c", "r/1/b-c", "r/10/x", "s/1"):
        store.put_bytes(key, b"1")

    assert list(store.list_keys("r/1/")) == ["r/1/b-c", "r/1/b/c"]
    assert list(store.list_keys("r/")) == ["r/1/b-c", "r/1/b/c", "r/10/x", "r/2/x"]
    assert list(store.list_keys("none/")) == []


def test_a_key_that_leaves_its_place_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    for key in ("../x", "a/../../x", "/etc/passwd", "a//b", ".hidden", ""):
        with pytest.raises(InvalidKeyError):
            store.put_bytes(key, b"1")
        with pytest.raises(InvalidKeyError):
            store.get_to(key, tmp_path / "dest")
        with pytest.raises(InvalidKeyError):
            store.sign_put(key, size_bytes=1, sha256=_SHA256, expires_s=60)
        with pytest.raises(InvalidKeyError):
            store.delete(key)
    with pytest.raises(InvalidKeyError):
        list(store.list_keys("a"))


# --- committing


def test_a_commit_stands_and_the_next_one_is_told(store: ObjectStore) -> None:
    assert store.commit_once("a/manifest.json", b"ours") is True
    assert store.commit_once("a/manifest.json", b"theirs") is False
    assert store.commit_once("a/manifest.json", b"ours") is True, "our own reply may get lost"

    assert store.get_bytes("a/manifest.json", limit_bytes=10) == b"ours"


def test_of_many_racers_exactly_one_commits(store: ObjectStore) -> None:
    start, won = threading.Barrier(8), []

    def race(number: int) -> None:
        start.wait()
        if store.commit_once("race", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(won) == 1
    assert store.get_bytes("race", limit_bytes=10) == str(won[0]).encode()


def test_conditional_writes_are_proven_and_leave_nothing(store: ObjectStore) -> None:
    store.prove_conditional_writes()

    assert list(store.list_keys("probe/")) == []


def test_a_versioned_bucket_is_found_out(
    rgw_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _open_bucket(rgw_bucket, monkeypatch)
    client = boto3.client("s3", endpoint_url=rgw_bucket.endpoint)
    client.put_bucket_versioning(
        Bucket=rgw_bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )

    with pytest.raises(ConditionalWritesError):
        store.prove_conditional_writes()


# --- signed URLs


def test_a_signed_put_takes_exactly_its_bytes(store: ObjectStore) -> None:
    key = upload_key(new_id("ten"), _SHA256)
    signed = store.sign_put(key, size_bytes=len(_BODY), sha256=_SHA256, expires_s=60)

    for wrong in (b"x" * len(_BODY), _BODY[:-1], _BODY + b"x", b""):
        answer = httpx.put(signed.url, content=wrong, headers=signed.headers)
        assert answer.status_code in (400, 403), answer.text
        assert store.size(key) is None

    for _ in range(2):  # sending it again is harmless
        answer = httpx.request(signed.method, signed.url, content=_BODY, headers=signed.headers)
        assert answer.status_code == 200, answer.text
    assert store.get_bytes(key, limit_bytes=1 << 20) == _BODY


def test_a_signed_put_cannot_be_bent(store: ObjectStore) -> None:
    other = b"y" * len(_BODY)
    signed = store.sign_put("a/b", size_bytes=len(_BODY), sha256=_SHA256, expires_s=60)
    digest = hashlib.sha256(other)
    bent_headers = {
        **signed.headers,
        "x-amz-content-sha256": digest.hexdigest(),
        "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
    }
    tries = [
        (signed.url, other, bent_headers),
        (signed.url, other, {**signed.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
        (signed.url.replace(_SHA256, digest.hexdigest()), other, bent_headers),
        (signed.url.replace("/a/b?", "/a/c?"), _BODY, signed.headers),
        (signed.url[:-1], _BODY, signed.headers),
        (signed.url + "%C3%A4", _BODY, signed.headers),
    ]
    for url, body, headers in tries:
        assert httpx.put(url, content=body, headers=headers).status_code in (400, 403)
    # The method is signed too. (RGW says 400 where the headers of the PUT are missing.)
    assert httpx.get(signed.url, headers=signed.headers).status_code in (400, 403)
    assert list(store.list_keys("a/")) == []


def test_a_signed_get_reads_one_object_until_it_expires(store: ObjectStore) -> None:
    store.put_bytes("a/b", _BODY)
    store.put_bytes("a/c", b"secret")
    url = store.sign_get("a/b", expires_s=60)

    assert httpx.get(url).content == _BODY
    assert httpx.get(url.replace("/a/b?", "/a/c?")).status_code == 403
    assert httpx.put(url, content=b"x").status_code == 403
    assert store.get_bytes("a/b", limit_bytes=1 << 20) == _BODY

    brief = store.sign_get("a/b", expires_s=1)
    deadline = time.monotonic() + 10
    while (status := httpx.get(brief).status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status == 403


# --- folders and shards


def _make_folder(folder: Path) -> str:
    """A folder with a manifest, as training writes it; returns the manifest's SHA-256."""
    (folder / "samples").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(100_000))
    (folder / "samples" / "0.png").write_bytes(b"picture")
    (folder / "not-named.txt").write_bytes(b"left out")
    files = {
        name: {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("weights.safetensors", "samples/0.png")
    }
    manifest = json.dumps({"version": 1, "kind": "result", "files": files}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def test_a_folder_comes_back_byte_for_byte(store: ObjectStore, tmp_path: Path) -> None:
    digest = _make_folder(tmp_path / "out")

    stored = put_folder(store, "r/1/result/", tmp_path / "out")
    assert put_folder(store, "r/1/result/", tmp_path / "out") == stored, "again is harmless"
    get_folder(store, stored, tmp_path / "back")

    assert stored == StoredFiles(
        key_prefix="r/1/result/", manifest_sha256=digest, size_bytes=100_007
    )
    for name in ("weights.safetensors", "samples/0.png", "manifest.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "back" / "not-named.txt").exists()


def test_a_damaged_folder_is_not_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    _make_folder(tmp_path / "out")
    (tmp_path / "out" / "samples" / "0.png").write_bytes(b"pictur3")

    with pytest.raises(ObjectCorruptError, match=r"samples/0\.png"):
        put_folder(store, "r/1/result/", tmp_path / "out")
    assert store.size("r/1/result/manifest.json") is None

    (tmp_path / "out" / "samples" / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        put_folder(store, "r/1/result/", tmp_path / "out")


def test_a_folder_is_never_committed_over_another(store: ObjectStore, tmp_path: Path) -> None:
    _make_folder(tmp_path / "one")
    _make_folder(tmp_path / "two")
    put_folder(store, "r/1/result/", tmp_path / "one")

    with pytest.raises(ObjectCorruptError, match="another manifest"):
        put_folder(store, "r/1/result/", tmp_path / "two")


@pytest.mark.parametrize("damage", ["content", "length", "gone", "manifest", "manifest_gone"])
def test_a_torn_folder_is_never_read(store: ObjectStore, tmp_path: Path, damage: str) -> None:
    _make_folder(tmp_path / "out")
    stored = put_folder(store, "r/1/result/", tmp_path / "out")
    match damage:
        case "content":
            store.put_bytes("r/1/result/samples/0.png", b"pictur3")
        case "length":
            store.put_bytes("r/1/result/samples/0.png", b"picture.")
        case "gone":
            store.delete("r/1/result/samples/0.png")
        case "manifest":
            store.put_bytes("r/1/result/manifest.json", b'{"files":{}}')
        case "manifest_gone":
            store.delete("r/1/result/manifest.json")

    with pytest.raises((ObjectCorruptError, ObjectMissingError), match="r/1/result/"):
        get_folder(store, stored, tmp_path / "back")
    assert not (tmp_path / "back" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", ".ssh/x", "manifest.json"])
def test_a_manifest_cannot_name_a_file_elsewhere(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    manifest = json.dumps({"files": {name: {"size_bytes": 1, "sha256": _SHA256}}}).encode()
    store.put_bytes("r/1/result/manifest.json", manifest)
    stored = StoredFiles(
        key_prefix="r/1/result/",
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        size_bytes=1,
    )

    with pytest.raises(ObjectCorruptError, match=r"is not a manifest|names itself"):
        get_folder(store, stored, tmp_path / "back")


def test_a_shard_comes_back_and_the_loser_of_a_race_adopts_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    tenant_id, digest = new_id("ten"), "ab" * 32
    first, second, back = tmp_path / "first", tmp_path / "second", tmp_path / "back"
    first.write_bytes(b"numbers")
    second.write_bytes(b"other numbers")

    shard = put_shard(store, tenant_id, digest, "latents", first)
    assert put_shard(store, tenant_id, digest, "latents", second) == shard
    assert put_shard(store, tenant_id, digest, "latents", first) == shard
    get_shard(store, tenant_id, shard, back)

    assert back.read_bytes() == b"numbers"
    assert shard.size_bytes == len(b"numbers")
    content = f"{hashlib.sha256(b'numbers').hexdigest()}.safetensors"
    prefix = shard_prefix(tenant_id, digest)
    assert list(store.list_keys(prefix)) == [prefix + content, prefix + "manifest.json"]


def test_a_damaged_shard_is_named_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    tenant_id, digest = new_id("ten"), "ab" * 32
    (tmp_path / "local").write_bytes(b"numbers")
    shard = put_shard(store, tenant_id, digest, "text", tmp_path / "local")
    key = f"{shard_prefix(tenant_id, digest)}{hashlib.sha256(b'numbers').hexdigest()}.safetensors"

    store.put_bytes(key, b"NUMBERS")
    with pytest.raises(ObjectCorruptError, match=key):
        get_shard(store, tenant_id, shard, tmp_path / "back")
    with pytest.raises(ObjectCorruptError, match="not the manifest"):
        get_shard(
            store,
            tenant_id,
            CachedShard(digest=digest, kind="text", manifest_sha256="0" * 64, size_bytes=7),
            tmp_path / "back",
        )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("back")] == []

    put_shard(store, tenant_id, digest, "text", tmp_path / "local")
    get_shard(store, tenant_id, shard, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"numbers", "building it again repairs it"


# --- what only one of them can show


def test_a_link_in_the_folder_leads_nowhere(folder_store: FolderStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    folder_store.put_bytes("t/a", b"1")
    root = tmp_path / "objects" / "t"
    (root / "dir").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")

    for key in ("t/dir/secret", "t/file"):
        with pytest.raises(ObjectMissingError):
            folder_store.get_bytes(key, limit_bytes=100)
    with pytest.raises(ObjectStoreRefusedError):
        folder_store.put_bytes("t/dir/new", b"1")
    folder_store.delete("t/dir/secret")
    folder_store.put_bytes("t/file", b"replaced, not followed")

    assert (outside / "secret").read_bytes() == b"secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert list(folder_store.list_keys("t/")) == ["t/a", "t/file"]


def test_an_upload_that_breaks_off_leaves_nothing(
    folder_store: FolderStore, tmp_path: Path
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, ObjectStoreDownError)):
        folder_store.receive("t/a", broken(), size_bytes=8, sha256=_SHA256)

    assert folder_store.size("t/a") is None
    assert list((tmp_path / "objects" / ".incoming").iterdir()) == []


def test_what_a_killed_writer_left_is_cleared_away_in_time(
    folder_store: FolderStore, tmp_path: Path
) -> None:
    folder_store.prove_conditional_writes()
    old, young = (tmp_path / "objects" / ".incoming" / name for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * 24 * 3600))

    folder_store.prove_conditional_writes()

    assert (old.exists(), young.exists()) == (False, True)


def test_a_big_file_goes_up_in_parts_and_comes_back(s3_store: S3Store, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        for _ in range(65):
            file.write(os.urandom(1 << 20))

    s3_store.put_file("big", source)
    s3_store.get_to("big", back)

    assert (
        hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    )


def test_a_store_that_is_away_is_down_and_one_that_refuses_is_not(
    rgw_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open_bucket(rgw_bucket, monkeypatch)
    away = S3Store("bucket", endpoint="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(ObjectStoreDownError):
        away.get_bytes("a", limit_bytes=1)
    absent = S3Store("no-such-bucket", endpoint=rgw_bucket.endpoint, region="us-east-1")
    with pytest.raises(ObjectStoreRefusedError):
        absent.get_bytes("a", limit_bytes=1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Store(rgw_bucket.name, endpoint=rgw_bucket.endpoint, region="us-east-1")
    with pytest.raises(ObjectStoreRefusedError):
        stranger.put_bytes("a", b"1")
