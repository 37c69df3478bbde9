"""One contract for every object store: the folder, and S3 as Ceph RGW speaks it."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from services.objects.errors import (
    ConditionalWritesError,
    InvalidKeyError,
    ObjectMissingError,
    ObjectStoreDownError,
    ObjectStoreRefusedError,
    ObjectTooBigError,
)
from services.objects.folder_store import FolderStore
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from tests.support.objects import SHA256, open_bucket
from tests.support.proxy import FaultProxy
from tests.support.rgw import Bucket
from tests.support.waiting import wait_until

# --- reading and writing


def test_an_object_is_read_as_it_was_put(store: ObjectStore, tmp_path: Path) -> None:
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
        lambda: range_of(store, "no/such", 0, 5),
    ):
        with pytest.raises(ObjectMissingError, match="no/such"):
            read()
    assert store.size("no/such") is None
    assert not (tmp_path / "dest").exists()


def test_an_object_above_the_size_limit_is_not_read(store: ObjectStore) -> None:
    store.put_bytes("a", b"12345")

    assert store.get_bytes("a", limit_bytes=5) == b"12345"
    with pytest.raises(ObjectTooBigError):
        store.get_bytes("a", limit_bytes=4)


def test_the_first_bytes_of_an_object_are_read_alone(store: ObjectStore) -> None:
    store.put_bytes("a", b"0123456789")

    assert store.get_first("a", 4) == b"0123"
    assert store.get_first("a", 99) == b"0123456789"
    store.put_bytes("empty", b"")
    assert store.get_first("empty", 4) == b""
    with pytest.raises(ObjectMissingError):
        store.get_first("b", 4)


@pytest.mark.parametrize(
    ("start", "size_bytes"),
    [
        pytest.param(0, 1, id="first byte"),
        pytest.param(1_000_000, 1_500_000, id="middle"),
        pytest.param(3 << 20, 17, id="last bytes"),
        pytest.param(3 << 20, 100, id="over the end"),
        pytest.param((3 << 20) + 17, 1, id="at the end"),
        pytest.param(9 << 20, 1 << 20, id="past the end"),
        pytest.param(5, 0, id="nothing"),
    ],
)
def test_a_range_of_an_object_is_read_alone(
    store: ObjectStore, tmp_path: Path, start: int, size_bytes: int
) -> None:
    body = os.urandom((3 << 20) + 17)
    (tmp_path / "source").write_bytes(body)
    store.put_file("a/b", tmp_path / "source")
    store.put_bytes("empty", b"")

    assert range_of(store, "a/b", start, size_bytes) == body[start : start + size_bytes]
    assert range_of(store, "empty", start, size_bytes) == b""


def range_of(store: ObjectStore, key: str, start: int, size_bytes: int) -> bytes:
    with store.open_range(key, start=start, size_bytes=size_bytes) as pieces:
        return b"".join(pieces)


def test_a_range_may_be_left_before_its_end(store: ObjectStore) -> None:
    body = os.urandom(5 << 20)
    store.put_bytes("a", body)
    for _ in range(20):  # more than an idle connection each would allow
        with store.open_range("a", start=1, size_bytes=4 << 20) as pieces:
            assert body[1:].startswith(next(pieces))
    assert range_of(store, "a", 7, 5) == body[7:12]


def test_deleting_twice_is_harmless(store: ObjectStore) -> None:
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


def test_a_key_that_leads_outside_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    for key in ("../x", "a/../../x", "/etc/passwd", "a//b", ".hidden", ""):
        with pytest.raises(InvalidKeyError):
            store.put_bytes(key, b"1")
        with pytest.raises(InvalidKeyError):
            range_of(store, key, 0, 1)
        with pytest.raises(InvalidKeyError):
            store.get_to(key, tmp_path / "dest")
        with pytest.raises(InvalidKeyError):
            store.sign_put(key, size_bytes=1, sha256=SHA256, expires_s=60)
        with pytest.raises(InvalidKeyError):
            store.delete(key)
    with pytest.raises(InvalidKeyError):
        list(store.list_keys("a"))


# --- committing


def test_only_the_first_commit_succeeds_unless_the_bytes_are_equal(store: ObjectStore) -> None:
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


def test_check_of_conditional_writes_leaves_no_object(store: ObjectStore) -> None:
    store.prove_conditional_writes()

    assert list(store.list_keys("probe/")) == []


def test_what_a_killed_process_left_of_the_check_is_deleted_in_time(store: ObjectStore) -> None:
    now_s = int(time.time())
    old, young = f"probe/{now_s - 3700}-a", f"probe/{now_s - 3500}-b"
    for key in (old, young):
        store.put_bytes(key, b"first")

    store.prove_conditional_writes()

    assert list(store.list_keys("probe/")) == [young]


_KILLED = """
import sys
from pathlib import Path
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
FolderStore(Path(sys.argv[1]), signer).prove_conditional_writes()
"""


def test_a_process_that_is_killed_during_the_check_leaves_an_object_that_says_its_age(
    folder_store: FolderStore, tmp_path: Path
) -> None:
    env = {**os.environ, "REVERIE_ENV": "test", "FAULT_AT": "objects.probed=kill"}
    began_s = int(time.time())
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "objects")]
    assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL

    (left,) = folder_store.list_keys("probe/")
    written_s = int(left.removeprefix("probe/").partition("-")[0])
    assert began_s <= written_s <= time.time()
    folder_store.prove_conditional_writes()
    assert list(folder_store.list_keys("probe/")) == [left]  # it may be one that still works


def test_a_versioned_bucket_is_detected(rgw_bucket: Bucket) -> None:
    store = open_bucket(rgw_bucket)
    client = boto3.client("s3", endpoint_url=rgw_bucket.endpoint)
    client.put_bucket_versioning(
        Bucket=rgw_bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )

    with pytest.raises(ConditionalWritesError):
        store.prove_conditional_writes()


@pytest.fixture
def proxied(rgw_bucket: Bucket, rgw_proxy: FaultProxy) -> tuple[S3Store, FaultProxy]:
    """The bucket behind a fault proxy. RGW itself was never seen to answer 409."""
    return open_bucket(rgw_bucket.at(rgw_proxy.port)), rgw_proxy


def test_of_writers_that_met_a_conflict_one_commits(proxied: tuple[S3Store, FaultProxy]) -> None:
    store, proxy = proxied
    proxy.set("409")
    with ThreadPoolExecutor(2) as threads:
        bodies = (b"ours", b"theirs")
        commits = [threads.submit(store.commit_once, "race", body) for body in bodies]
        wait_until(lambda: proxy.hits["409"] >= 2, what="both to meet a conflict", every_s=0.01)
        proxy.set("ok")

        won = [body for body, commit in zip(bodies, commits, strict=True) if commit.result()]

    assert won == [store.get_bytes("race", limit_bytes=10)]


@pytest.mark.deep
def test_conflicts_without_end_are_an_outage(proxied: tuple[S3Store, FaultProxy]) -> None:
    store, proxy = proxied
    proxy.set("409")

    with pytest.raises(ObjectStoreDownError, match="conflicting writes"):
        store.commit_once("a", b"1")

    assert proxy.hits["409"] == 6
    assert store.size("a") is None


def test_a_read_that_breaks_off_may_be_repeated(
    proxied: tuple[S3Store, FaultProxy], tmp_path: Path
) -> None:
    store, proxy = proxied
    body = os.urandom(100_000)
    store.put_bytes("a", body)
    proxy.set("half_body")

    with pytest.raises(ObjectStoreDownError):
        store.get_to("a", tmp_path / "a")
    with pytest.raises(ObjectStoreDownError):
        store.get_bytes("a", limit_bytes=1 << 20)
    with pytest.raises(ObjectStoreDownError):
        range_of(store, "a", 10, 90_000)

    assert list(tmp_path.iterdir()) == []
    proxy.set("ok")
    store.get_to("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == body


# --- what only one of them can show


def test_a_link_in_the_folder_is_not_followed(folder_store: FolderStore, tmp_path: Path) -> None:
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
        folder_store.receive("t/a", broken(), size_bytes=8, sha256=SHA256)

    assert folder_store.size("t/a") is None
    assert list((tmp_path / "objects" / ".incoming").iterdir()) == []


def test_the_files_of_killed_writers_are_deleted_in_time(
    folder_store: FolderStore, tmp_path: Path
) -> None:
    folder_store.prove_conditional_writes()
    old, young = (tmp_path / "objects" / ".incoming" / name for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * 24 * 3600))

    folder_store.prove_conditional_writes()

    assert (old.exists(), young.exists()) == (False, True)


def test_a_large_file_is_uploaded_in_parts_and_read_back(s3_store: S3Store, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        for _ in range(65):
            file.write(os.urandom(1 << 20))

    s3_store.put_file("big", source)
    s3_store.get_to("big", back)

    assert (
        hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    )


def test_a_store_that_does_not_answer_is_down_and_one_that_refuses_is_not(
    rgw_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
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
