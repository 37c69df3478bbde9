"""Uploads in parts: one contract for the folder and for S3 as Ceph RGW speaks it."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest

from services.domain.ids import new_id
from services.objects.errors import InvalidKeyError
from services.objects.folder_store import FolderStore
from services.objects.keys import upload_key
from services.objects.port import ObjectStore, SignedRequest
from services.objects.s3_store import S3Store

PART = 5 << 20  # the least that S3 takes, but for the last part
HOUR = timedelta(hours=1)
NOW = timedelta()


@pytest.fixture
def key() -> str:
    return upload_key(new_id("ten"), "a" * 64)


def sign(store: ObjectStore, key: str, upload_id: str, number: int, body: bytes) -> SignedRequest:
    return store.parts.sign(
        key,
        upload_id,
        number,
        size_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        expires_s=60,
    )


def put(signed: SignedRequest, body: bytes) -> int:
    return httpx.put(signed.url, content=body, headers=signed.headers, timeout=30).status_code


def test_parts_are_joined_by_their_numbers(store: ObjectStore, key: str) -> None:
    bodies = {1: os.urandom(PART), 2: os.urandom(PART), 3: b"the end"}
    upload_id = store.parts.begin(key)
    assert store.parts.sizes(key, upload_id) == {}
    for number in (3, 1, 2):
        assert put(sign(store, key, upload_id, number, bodies[number]), bodies[number]) == 200

    assert store.parts.sizes(key, upload_id) == {1: PART, 2: PART, 3: 7}
    assert store.size(key) is None  # readers see nothing before
    assert list(store.list_keys("tenants/")) == []
    store.parts.finish(key, upload_id)

    assert store.get_bytes(key, limit_bytes=1 << 30) == b"".join(bodies[n] for n in (1, 2, 3))
    assert store.parts.sizes(key, upload_id) == {}
    store.parts.finish(key, upload_id)
    assert store.size(key) == 2 * PART + 7
    assert put(sign(store, key, upload_id, 1, b"late"), b"late") in (400, 403, 404)
    assert store.size(key) == 2 * PART + 7


def test_an_interrupted_upload_is_found_by_its_key(store: ObjectStore, key: str) -> None:
    upload_id = store.parts.begin(key)
    assert put(sign(store, key, upload_id, 2, b"two"), b"two") == 200

    assert store.parts.begin(key) == upload_id
    assert store.parts.sizes(key, upload_id) == {2: 3}
    assert store.parts.sizes(key + "b", store.parts.begin(key + "b")) == {}
    assert store.parts.begin(upload_key(new_id("ten"), "a" * 64)) != upload_id


def test_a_part_takes_exactly_its_bytes(store: ObjectStore, key: str) -> None:
    upload_id = store.parts.begin(key)
    body = b"the quick brown fox"
    signed = sign(store, key, upload_id, 1, body)

    for wrong in (b"x" * len(body), body[:-1], body + b"x", b""):
        assert put(signed, wrong) in (400, 403)
    for old, new in (
        (r"part(Number)?=1", r"part\1=2"),
        (r"(upload\w*=)[^&]+", r"\1no"),
        ("ten_", "te_"),
    ):
        url, number = re.subn(old, new, signed.url)
        assert number == 1
        changed = SignedRequest(method="PUT", url=url, headers=signed.headers)
        assert put(changed, body) in (400, 403)
    unsigned = {**signed.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    if signed.headers:
        assert put(SignedRequest(method="PUT", url=signed.url, headers=unsigned), b"any") == 403
    assert store.parts.sizes(key, upload_id) == {}

    for _ in range(2):  # sending it again is harmless
        assert put(signed, body) == 200
    assert store.parts.sizes(key, upload_id) == {1: len(body)}


def test_an_upload_that_ends_while_it_begins_is_no_error(s3_store: S3Store, key: str) -> None:
    """Another request finishes the object between the two requests that begin an upload."""
    events = s3_store.parts._client.meta.events
    events.register("after-call.s3.CreateMultipartUpload", lambda **_: s3_store.parts.drop(key))

    upload_id = s3_store.parts.begin(key)
    assert put(sign(s3_store, key, upload_id, 1, b"late"), b"late") == 404
    assert s3_store.parts.sizes(key, upload_id) == {}


def test_of_two_that_begin_at_once_all_go_on_with_one(store: ObjectStore, key: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(store.parts.begin, [key] * 4))
    upload_id = store.parts.begin(key)
    assert {store.parts.begin(key) for _ in range(3)} == {upload_id}
    if isinstance(store, FolderStore):  # S3 may list an upload that began with another one late
        assert set(begun) == {upload_id}
    assert put(sign(store, key, upload_id, 1, b"whole"), b"whole") == 200
    store.parts.finish(key, upload_id)
    assert store.get_bytes(key, limit_bytes=100) == b"whole"


def test_abandoned_uploads_end_with_their_parts(store: ObjectStore, key: str) -> None:
    upload_id = store.parts.begin(key)
    signed = sign(store, key, upload_id, 1, b"one")
    assert put(signed, b"one") == 200
    other = key.replace("tenants/", "services/")
    kept = store.parts.begin(other)

    assert store.parts.abort("tenants/", older_than=HOUR) == 0
    assert store.parts.sizes(key, upload_id) == {1: 3}
    assert store.parts.abort("tenants/", older_than=NOW) == 1
    assert store.parts.abort("tenants/", older_than=NOW) == 0

    assert store.parts.sizes(key, upload_id) == {}
    assert put(signed, b"one") in (400, 403, 404)
    store.parts.finish(key, upload_id)
    assert store.size(key) is None
    assert store.parts.begin(other) == kept
    assert store.parts.begin(key) != upload_id


def test_the_uploads_of_one_key_are_ended(store: ObjectStore, key: str) -> None:
    other = f"{key}0"
    upload_id, kept = store.parts.begin(key), store.parts.begin(other)
    signed = sign(store, key, upload_id, 1, b"one")
    assert put(signed, b"one") == 200
    assert store.parts.keys("tenants/") == {key, other}
    assert store.parts.keys("services/") == set()

    assert [store.parts.drop(key), store.parts.drop(key)] == [1, 0]
    assert store.parts.keys("tenants/") == {other}
    assert store.parts.sizes(key, upload_id) == {}
    assert put(signed, b"one") in (400, 403, 404)
    assert store.parts.begin(other) == kept


def test_a_key_that_leads_outside_has_no_parts(store: ObjectStore) -> None:
    for bad in ("../x", "a/../../x", "/etc/passwd", ".hidden", ""):
        with pytest.raises(InvalidKeyError):
            store.parts.begin(bad)
        with pytest.raises(InvalidKeyError):
            store.parts.drop(bad)
        with pytest.raises(InvalidKeyError):
            sign(store, bad, "0" * 32, 1, b"x")
    with pytest.raises(InvalidKeyError):
        store.parts.abort("tenants", older_than=NOW)
