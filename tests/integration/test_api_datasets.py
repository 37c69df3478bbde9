"""Datasets and signed uploads over real PostgreSQL and the folder store."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from services.store import api_keys
from services.store.database import Database
from services.store.datasets import FileFacts
from tests.support.api_keys import digest
from tests.support.fleet import Fleet, children_of
from tests.support.service import database_of, new_tenant, run_request
from tests.support.tenant import Json, Tenant, listed
from tests.support.verifying import end_verification


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


def uploads_of(tenant: Tenant, dataset_id: str, **more: object) -> Json:
    return tenant.post("/v1/uploads", {"dataset_id": dataset_id, **more})


def test_a_dataset_is_declared_uploaded_and_completed(fleet: Fleet, tenant: Tenant) -> None:
    files = {f"{n}.jpg": os.urandom(100 + n) for n in range(3)} | {"0.txt": b"a caption"}
    dataset = tenant.post("/v1/datasets", {"name": "photos", "files": listed(files)})
    assert (dataset["object"], dataset["status"], dataset["errors"]) == ("dataset", "uploading", [])

    early = tenant.http.post(f"/v1/datasets/{dataset['id']}:complete", json={})
    assert (early.status_code, early.json()["code"]) == (409, "dataset_incomplete")
    assert {e["pointer"] for e in early.json()["errors"]} == set(files)

    first = uploads_of(tenant, dataset["id"], limit=3)
    second = uploads_of(tenant, dataset["id"], limit=3, after=first["next_cursor"])
    assert (first["has_more"], second["has_more"]) == (True, False)
    uploads = first["data"] + second["data"]
    assert [u["path"] for u in uploads] == sorted(files)
    for upload in uploads:
        assert not upload["present"]
        sent = httpx.put(upload["url"], headers=upload["headers"], content=files[upload["path"]])
        assert sent.status_code == 200, sent.text
        assert upload["url"].startswith(f"{fleet.url}/objects/tenants/ten_")
    assert all(u["present"] and u["url"] is None for u in uploads_of(tenant, dataset["id"])["data"])

    for _ in range(2):  # completing twice is harmless
        answer = tenant.http.post(f"/v1/datasets/{dataset['id']}:complete")
        assert (answer.status_code, answer.json()["status"]) == (202, "verifying")
    late = tenant.http.post("/v1/uploads", json={"dataset_id": dataset["id"]})
    assert (late.status_code, late.json()["code"]) == (409, "dataset_not_open")
    again = tenant.post("/v1/datasets", {"name": "more", "files": listed(files)})
    assert all(u["present"] for u in uploads_of(tenant, again["id"])["data"])


def test_a_signed_url_accepts_only_its_own_bytes(fleet: Fleet, tenant: Tenant) -> None:
    body = os.urandom(5000)
    dataset = tenant.post("/v1/datasets", {"name": "one", "files": listed({"a.jpg": body})})
    (upload,) = uploads_of(tenant, dataset["id"])["data"]
    url = upload["url"]

    for wrong in (body[::-1], body + b"x", body[:-1], b""):
        answer = httpx.put(url, content=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "body_mismatch")
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in (
        ("size", "6000"),
        ("sha256", "0" * 64),
        ("expires", "99999999999"),
        ("method", "GET"),
        ("signature", "0" * 64),
        ("signature", "ü"),
    ):
        forged = parts._replace(query=urlencode({**query, name: value})).geturl()
        assert httpx.put(forged, content=body).status_code == 403, name
    elsewhere = url.replace("/uploads/", "/runs/")
    assert httpx.put(elsewhere, content=body).status_code == 403
    assert httpx.put(f"{fleet.url}/objects/..%2f..%2fetc?signature=x").status_code == 404
    assert httpx.get(url).status_code == 403
    assert httpx.put(f"{fleet.url}/objects/tenants/x", content=body).status_code == 403
    (still,) = uploads_of(tenant, dataset["id"])["data"]
    assert not still["present"]
    objects = Path(fleet.env["REVERIE_OBJECTS_URL"].removeprefix("file://"))
    assert list((objects / ".incoming").iterdir()) == []
    assert httpx.put(still["url"], content=iter([body[:99], body[99:]])).status_code == 200


def test_what_one_tenant_stored_is_not_told_to_another(fleet: Fleet, tenant: Tenant) -> None:
    files = {"same.jpg": os.urandom(100)}
    tenant.push(files)
    eve = new_tenant(fleet, "eve")
    body = {"name": "photos", "files": listed(files)}
    key = {"Idempotency-Key": "the same key"}
    ours, theirs = (each.post("/v1/datasets", body, **key)["id"] for each in (tenant, eve))

    assert ours != theirs
    assert uploads_of(tenant, ours)["data"][0]["present"]
    (upload,) = uploads_of(eve, theirs)["data"]
    assert not upload["present"]
    early = eve.http.post(f"/v1/datasets/{theirs}:complete", json={})
    assert (early.status_code, early.json()["code"]) == (409, "dataset_incomplete")


def test_a_large_upload_is_not_held_in_memory(fleet: Fleet, tenant: Tenant) -> None:
    """Neither a file that is sent as a whole, nor one in parts while they come and are joined."""
    whole, large = (os.urandom(1 << 20) * mib for mib in (32, 96))
    files = listed({"whole.png": whole, "parts.png": large})
    dataset = tenant.post("/v1/datasets", {"name": "big", "files": files})
    in_parts, at_once = uploads_of(tenant, dataset["id"])["data"]
    size_bytes = in_parts["part_size_bytes"]
    bodies = [large[start : start + size_bytes] for start in range(0, len(large), size_bytes)]
    asked = {
        "dataset_id": dataset["id"],
        "path": "parts.png",
        "sha256": [hashlib.sha256(body).hexdigest() for body in bodies],
    }
    pids = children_of(fleet.processes["api"].pid)

    def peak_kib() -> int:
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return sum(int(peak) for peak in re.findall(r"VmHWM:\s+(\d+) kB", "".join(statuses)))

    before = peak_kib()
    assert before
    assert httpx.put(at_once["url"], content=whole, timeout=60).status_code == 200
    for part, body in zip(tenant.post("/v1/uploads/parts", asked)["parts"], bodies, strict=True):
        assert httpx.put(part["url"], content=body, timeout=60).status_code == 200
    assert tenant.post("/v1/uploads/parts", asked)["present"]
    assert peak_kib() - before < 12 << 10


def test_the_parts_of_a_file_can_be_given_up(tenant: Tenant) -> None:
    large = b"x" * (33 << 20)
    dataset = tenant.post("/v1/datasets", {"name": "a", "files": listed({"large.png": large})})
    file = {"dataset_id": dataset["id"], "path": "large.png"}
    cut = [large[: 16 << 20], large[: 16 << 20], large[: 1 << 20]]
    asked = {**file, "sha256": [hashlib.sha256(body).hexdigest() for body in cut]}
    url = tenant.post("/v1/uploads/parts", asked)["parts"][2]["url"]
    assert httpx.put(url, content=cut[2], timeout=60).status_code == 200
    assert tenant.post("/v1/uploads/parts", asked)["parts"][2]["present"]

    for _ in range(2):
        assert tenant.http.post("/v1/uploads/parts:abort", json=file).status_code == 204

    assert httpx.put(url, content=cut[2], timeout=60).status_code == 404
    assert not tenant.post("/v1/uploads/parts", asked)["parts"][2]["present"]
    answer = tenant.http.post("/v1/uploads/parts:abort", json={**file, "path": "other.png"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/path")


def test_a_rejected_dataset_is_refused_with_its_bad_files(tenant: Tenant, store: Database) -> None:
    from services.domain.errors import Problem

    bad = tenant.push({"a.jpg": b"no picture"})
    good = tenant.push({"b.jpg": b"looked at", "half.jpg": b"and left out"})
    tenant_id = _tenant_id(store, tenant)
    with store.transaction() as conn:
        problem = Problem(pointer="a.jpg", code="bad_image", message="It is no picture.")
        end_verification(conn, tenant_id, bad, problems=[problem])
        facts = [FileFacts(path="b.jpg", width_px=64, height_px=64)]
        half = Problem(pointer="half.jpg", code="bad_image", message="half.jpg: cut off")
        end_verification(conn, tenant_id, good, facts=facts, left_out=[half])

    answer = tenant.http.post("/v1/runs", json=run_request({"photos": bad, "held-out": good}))

    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_rejected")
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/datasets/photos"
    assert "a.jpg: It is no picture." in error["message"]
    assert tenant.get(f"/v1/datasets/{bad}")["errors"][0]["pointer"] == "a.jpg"
    seen = tenant.get(f"/v1/datasets/{good}")
    assert (seen["status"], seen["num_files"], seen["verified_files"]) == ("ready", 2, 2)
    assert seen["errors"] == []
    assert (seen["num_left_out"], seen["left_out"][0]["pointer"]) == (1, "half.jpg")
    (left_out,) = tenant.get(f"/v1/datasets/{good}/files?left_out=only")["data"]
    assert left_out["path"] == "half.jpg"
    assert left_out["left_out"] == seen["left_out"][0]
    assert len(tenant.get(f"/v1/datasets/{good}/files")["data"]) == 2
    answer = tenant.http.get(f"/v1/datasets/{good}/files?left_out=true")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "query:left_out")


def _tenant_id(store: Database, tenant: Tenant) -> str:
    key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
    with store.transaction() as conn:
        found = api_keys.tenant_of(conn, digest(key))
    assert found is not None
    return found


def test_a_long_list_of_files_is_accepted(tenant: Tenant) -> None:
    files = [
        {"path": f"folder/picture-{n:06d}.jpg", "size_bytes": 1000 + n, "sha256": f"{n:064x}"}
        for n in range(40_000)  # over 4 MiB of JSON
    ]
    dataset = tenant.post("/v1/datasets", {"name": "many", "files": files})

    page = uploads_of(tenant, dataset["id"])

    assert (len(page["data"]), page["has_more"]) == (1000, True)
    missing = tenant.http.post(f"/v1/datasets/{dataset['id']}:complete", json={}, timeout=60)
    assert missing.status_code == 409
    assert len(missing.json()["errors"]) == 100
    assert "40000" in missing.json()["detail"]


def test_lists_are_read_page_by_page(fleet: Fleet) -> None:
    tenant = new_tenant(fleet, "pages")
    made = [
        tenant.post("/v1/datasets", {"name": f"{n}", "files": listed({"a.jpg": b"x"})})["id"]
        for n in range(5)
    ]
    seen, path = [], "/v1/datasets?limit=2"
    while True:
        page = tenant.get(path)
        seen += [dataset["id"] for dataset in page["data"]]
        if not page["has_more"]:
            break
        path = f"/v1/datasets?limit=2&after={page['next_cursor']}"
    assert seen == made[::-1]
    assert page["next_cursor"] is None
    for bad in ("x", "run_" + "0" * 32, "%00"):
        answer = tenant.http.get(f"/v1/datasets?after={bad}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "query:after")


def test_creating_a_dataset_twice_with_one_key_makes_one(tenant: Tenant) -> None:
    body = {"name": "once", "files": listed({"a.jpg": b"x"})}
    headers = {"Idempotency-Key": "once"}
    first, second = (tenant.http.post("/v1/datasets", json=body, headers=headers) for _ in "ab")
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == f"/v1/datasets/{first.json()['id']}"
    other = tenant.http.post("/v1/datasets", json={**body, "name": "two"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    without = tenant.http.post("/v1/datasets", json=body)
    assert without.headers["Idempotency-Key-Missing"] == "true"
    long = tenant.http.post("/v1/datasets", json=body, headers={"Idempotency-Key": "k" * 256})
    assert long.status_code == 422
    assert long.json()["errors"][0]["pointer"] == "header:Idempotency-Key"
