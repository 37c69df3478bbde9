"""One contract for the signed addresses of every object store: what each allows, and until when."""

import base64
import hashlib
import os
import time

import httpx
import pytest

from services.domain.ids import new_id
from services.objects.folder_store import FolderStore
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from tests.support.objects import BODY, SHA256


def test_a_signed_put_takes_exactly_its_bytes(store: ObjectStore) -> None:
    key = upload_key(new_id("ten"), SHA256)
    signed = store.sign_put(key, size_bytes=len(BODY), sha256=SHA256, expires_s=60)

    for wrong in (b"x" * len(BODY), BODY[:-1], BODY + b"x", b""):
        answer = httpx.put(signed.url, content=wrong, headers=signed.headers)
        assert answer.status_code in (400, 403), answer.text
        assert store.size(key) is None

    for _ in range(2):  # sending it again is harmless
        answer = httpx.request(signed.method, signed.url, content=BODY, headers=signed.headers)
        assert answer.status_code == 200, answer.text
    assert store.get_bytes(key, limit_bytes=1 << 20) == BODY


def test_an_altered_signed_put_is_refused(store: ObjectStore) -> None:
    other = b"y" * len(BODY)
    signed = store.sign_put("a/b", size_bytes=len(BODY), sha256=SHA256, expires_s=60)
    digest = hashlib.sha256(other)
    bent_headers = {
        **signed.headers,
        "x-amz-content-sha256": digest.hexdigest(),
        "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
    }
    tries = [
        (signed.url, other, bent_headers),
        (signed.url, other, {**signed.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
        (signed.url.replace(SHA256, digest.hexdigest()), other, bent_headers),
        (signed.url.replace("/a/b?", "/a/c?"), BODY, signed.headers),
        (signed.url[:-1], BODY, signed.headers),
        (signed.url + "%C3%A4", BODY, signed.headers),
    ]
    for url, body, headers in tries:
        assert httpx.put(url, content=body, headers=headers).status_code in (400, 403)
    # The method is signed too. (RGW says 400 where the headers of the PUT are missing.)
    assert httpx.get(signed.url, headers=signed.headers).status_code in (400, 403)
    assert list(store.list_keys("a/")) == []


def test_a_signed_get_reads_one_object_until_it_expires(store: ObjectStore) -> None:
    store.put_bytes("a/b", BODY)
    store.put_bytes("a/c", b"secret")
    url = store.sign_get("a/b", expires_s=60)

    assert httpx.get(url).content == BODY
    assert httpx.get(url.replace("/a/b?", "/a/c?")).status_code == 403
    assert httpx.put(url, content=b"x").status_code == 403
    assert store.get_bytes("a/b", limit_bytes=1 << 20) == BODY

    brief = store.sign_get("a/b", expires_s=1)
    deadline = time.monotonic() + 10
    while (status := httpx.get(brief).status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.1)  # the signature ends by the clock of the server
    assert status == 403


def test_a_signed_get_is_a_download_and_answers_ranges(store: ObjectStore) -> None:
    body = os.urandom(100_000)
    store.put_bytes("a/b.bin", body)
    url = store.sign_get("a/b.bin", expires_s=60)

    whole = httpx.get(url)
    assert whole.status_code == 200
    assert whole.headers["Content-Disposition"] == 'attachment; filename="b.bin"'
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Length"] == "100000"
    for asked, part in (
        ("bytes=0-0", body[:1]),
        ("bytes=10-19", body[10:20]),
        ("bytes=99990-", body[99_990:]),
        ("bytes=99990-1000000", body[99_990:]),
        ("bytes=-7", body[-7:]),
        ("bytes=-1000000", body),
    ):
        answer = httpx.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, part), asked
        first = body.index(part)
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/100000"
        assert answer.headers["ETag"] == whole.headers["ETag"]
    beyond = httpx.get(url, headers={"Range": "bytes=100000-"})
    assert beyond.status_code == 416
    parts = [
        httpx.get(url, headers={"Range": f"bytes={n}-{n + 33_332}"}).content
        for n in range(0, 100_000, 33_333)
    ]
    assert b"".join(parts) == body


def test_a_client_that_has_the_object_is_not_sent_it_again(store: ObjectStore) -> None:
    store.put_bytes("a/b", BODY)
    url = store.sign_get("a/b", expires_s=60)
    etag = httpx.get(url).headers["ETag"]

    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = httpx.get(url, headers={"If-None-Match": known})
        if answer.status_code == 200 and known != etag:
            assert isinstance(store, S3Store), "RGW reads a single ETag only"
            continue
        assert (answer.status_code, answer.content) == (304, b""), known
    assert httpx.get(url, headers={"If-None-Match": '"other"'}).content == BODY

    store.put_bytes("a/b", b"x" * len(BODY))
    changed = httpx.get(url, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.content) == (200, b"x" * len(BODY))
    assert changed.headers["ETag"] != etag


def test_a_signed_head_tells_of_an_object_and_reads_none(store: ObjectStore) -> None:
    store.put_bytes("a/b", BODY)
    url = store.sign_head("a/b", expires_s=60)

    answer = httpx.head(url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == httpx.get(store.sign_get("a/b", expires_s=60)).headers["ETag"]
    assert httpx.get(url).status_code == 403
    assert httpx.head(url.replace("/a/b?", "/a/c?")).status_code == 403
    assert httpx.head(store.sign_head("a/c", expires_s=60)).status_code == 404


# --- what only one of them can show


def test_a_range_of_another_version_is_the_whole_object(folder_store: FolderStore) -> None:
    folder_store.put_bytes("a", BODY)
    url = folder_store.sign_get("a", expires_s=60)
    etag = httpx.get(url).headers["ETag"]

    same = httpx.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (same.status_code, same.content) == (206, BODY[5:])
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = httpx.get(url, headers={"Range": "bytes=5-", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, BODY), other
    assert httpx.head(url).headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(
    "header", ["bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "0-1"]
)
def test_a_range_that_is_none_or_several_is_the_whole_object(
    folder_store: FolderStore, header: str
) -> None:
    folder_store.put_bytes("a", BODY)
    answer = httpx.get(folder_store.sign_get("a", expires_s=60), headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, BODY)


def test_an_empty_object_has_no_range(folder_store: FolderStore) -> None:
    folder_store.put_bytes("a", b"")
    url = folder_store.sign_get("a", expires_s=60)
    assert httpx.get(url).content == b""
    for asked in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        answer = httpx.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */0")
