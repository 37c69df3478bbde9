"""Datasets that are based on others, and how two of them differ, over HTTP."""

import hashlib
from collections.abc import Iterator, Mapping

import httpx
import pytest

from services.domain.errors import Problem
from services.store import api_keys
from services.store.database import Database
from services.store.datasets import FileFacts
from tests.support.api_keys import digest
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant
from tests.support.tenant import Json, Tenant, listed
from tests.support.verifying import end_verification

FILES = {"a.jpg": b"1", "b/a.jpg": b"2", "b/a.txt": b"3", "b/b.jpg": b"4", "z.jpg": b"5"}


@pytest.fixture
def tenant(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


def tenant_id_of(store: Database, tenant: Tenant) -> str:
    key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
    with store.transaction() as conn:
        found = api_keys.tenant_of(conn, digest(key))
    assert found is not None
    return found


def ready(store: Database, tenant: Tenant, files: Mapping[str, bytes] = FILES) -> str:
    """A dataset that was verified, with a size for each picture."""
    dataset_id = tenant.push(files)
    facts = [
        FileFacts(path=path, text="text")
        if path.endswith(".txt")
        else FileFacts(path=path, width_px=64, height_px=len(body))
        for path, body in files.items()
    ]
    with store.transaction() as conn:
        end_verification(conn, tenant_id_of(store, tenant), dataset_id, facts=facts)
    return dataset_id


def files_in(tenant: Tenant, dataset_id: str) -> list[Json]:
    return list(tenant.get(f"/v1/datasets/{dataset_id}/files?limit=1000")["data"])


def stored_bytes(tenant: Tenant) -> float:
    quotas = tenant.get("/v1/quotas")["data"]
    return next(each["used"] for each in quotas if each["id"] == "storage_bytes")


def refusal(tenant: Tenant, body: Json) -> list[tuple[str, str]]:
    answer = tenant.http.post("/v1/datasets", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    return [(each["pointer"], each["code"]) for each in answer.json()["errors"]]


def test_a_version_has_the_files_of_its_base_but_for_those_named(
    tenant: Tenant, store: Database
) -> None:
    base = ready(store, tenant)
    new = {"a.jpg": b"other", "c.jpg": b"new", "B.txt": b"new, too"}
    body = {"based_on": base, "files": listed(new), "removed": ["b/b.jpg", "b/a.txt"]}

    made = tenant.post("/v1/datasets", body)

    assert (made["status"], made["based_on"], made["name"]) == ("uploading", base, "photos")
    assert made["digest"] is None
    wanted = {path: each for path, each in (FILES | new).items() if path not in body["removed"]}
    found = {each["path"]: each for each in files_in(tenant, made["id"])}
    assert {path: each["sha256"] for path, each in found.items()} == {
        each["path"]: each["sha256"] for each in listed(wanted)
    }
    assert (found["z.jpg"]["width_px"], found["z.jpg"]["height_px"]) == (64, 1)
    assert (found["a.jpg"]["width_px"], found["z.jpg"]["media"]) == (None, "image")

    asked = {"dataset_id": made["id"], "skip_verified": True}
    uploads = tenant.post("/v1/uploads", asked)["data"]
    assert [each["path"] for each in uploads] == ["B.txt", "a.jpg", "c.jpg"]
    early = tenant.http.post(f"/v1/datasets/{made['id']}:complete", json={})
    assert early.status_code == 409
    assert {each["pointer"] for each in early.json()["errors"]} == set(new)
    for each in uploads:
        answer = httpx.put(each["url"], headers=each["headers"], content=new[each["path"]])
        assert answer.status_code == 200
    tenant.complete(made["id"])

    whole = tenant.push(wanted, name="another name")
    completed, other = (tenant.get(f"/v1/datasets/{each}") for each in (made["id"], whole))
    assert completed["digest"] == other["digest"]
    assert completed["digest"].startswith("sha256:")
    assert (completed["num_files"], completed["based_on"]) == (len(wanted), base)
    assert tenant.get(f"/v1/datasets/{base}")["digest"] != completed["digest"]
    named = tenant.post("/v1/datasets", {"based_on": base, "name": "copy"})
    assert (named["name"], len(files_in(tenant, named["id"]))) == ("copy", len(FILES))


def test_a_version_is_made_once_for_one_key_and_is_audited(tenant: Tenant, store: Database) -> None:
    base = ready(store, tenant)
    body = {"based_on": base, "removed": ["a.jpg"]}
    first, second = (
        tenant.http.post("/v1/datasets", json=body, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    )
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    events = tenant.get(f"/v1/audit-events?target={first.json()['id']}")["data"]
    assert [each["action"] for each in events] == ["dataset.created"]


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"removed": ["a.jpg", "c.jpg", "a.jpg"]}, [("/removed/2", "conflict")]),
        (
            {"removed": ["b", "B/A.jpg", "b/a.jpg"]},
            [("/removed/0", "not_found"), ("/removed/1", "not_found")],
        ),
        (
            {"files": listed({"z.jpg": b"6"}), "removed": ["a.jpg", "z.jpg"]},
            [("/removed/1", "conflict")],
        ),
        ({"files": listed({"n.jpg": b"", "A.JPG": b"6"})}, [("/files/0/size_bytes", "bad_value")]),
        ({"files": listed({"n.jpg": b"6", "A.JPG": b"6"})}, [("/files/1/path", "conflict")]),
        ({"files": listed({"Z.jpg/in.jpg": b"6"})}, [("/files/0/path", "conflict")]),
        ({"files": listed({"b/A.txt": b"6"}), "removed": ["b/a.txt"]}, None),  # renamed
        ({"removed": list(FILES)}, [("/removed", "bad_value")]),
        ({"removed": "a.jpg"}, [("/removed", "bad_value")]),
        ({"removed": [1, "a.jpg"]}, [("/removed/0", "bad_value")]),
        ({"removed": ["\0"]}, [("/removed/0", "bad_value")]),
        ({"name": ""}, [("/name", "bad_value")]),
        ({"name": None}, [("/name", "bad_value")]),
        ({"based_on": "ds_x"}, [("/based_on", "not_found")]),
        ({"based_on": None, "name": "a"}, [("/files", "missing")]),
        ({"based_on": None, "name": "a", "files": []}, [("/files", "bad_value")]),
        ({"based_on": None, "files": listed({"a.jpg": b"6"})}, [("/name", "missing")]),
        (
            {"based_on": None, "name": "a", "files": listed({"a.jpg": b"6"}), "removed": ["b"]},
            [("/removed", "refused")],
        ),
    ],
)
def test_what_cannot_be_a_version_is_refused_by_name(
    tenant: Tenant, store: Database, changes: Json, problems: list[tuple[str, str]] | None
) -> None:
    body = {"based_on": ready(store, tenant), **changes}
    if problems is None:
        assert tenant.post("/v1/datasets", body)["status"] == "uploading"
    else:
        assert refusal(tenant, body) == problems


def test_a_file_that_would_be_a_folder_of_the_base_is_refused(
    tenant: Tenant, store: Database
) -> None:
    base = ready(store, tenant, {"In.txt/a.jpg": b"1", "b.jpg": b"2"})
    body: Json = {"based_on": base, "files": listed({"in.txt": b"text"})}
    answer = tenant.http.post("/v1/datasets", json=body)
    assert [(each["pointer"], each["message"]) for each in answer.json()["errors"]] == [
        ("/files/0/path", "in.txt would be the folder of In.txt/a.jpg (case is ignored).")
    ]
    assert tenant.post("/v1/datasets", {**body, "removed": ["In.txt/a.jpg"]})["based_on"] == base


def test_only_a_completed_dataset_of_the_tenant_can_be_a_base(
    fleet: Fleet, tenant: Tenant, store: Database
) -> None:
    files = {"a.jpg": b"1"}
    open_id = tenant.push(files, complete=False)
    verifying = tenant.push(files)
    rejected = tenant.push(files)
    with store.transaction() as conn:
        problem = Problem(pointer="a.jpg", code="bad_image", message="It is no image.")
        end_verification(conn, tenant_id_of(store, tenant), rejected, problems=[problem])
    theirs = ready(store, new_tenant(fleet, "eve"))

    assert refusal(tenant, {"based_on": open_id}) == [("/based_on", "dataset_uploading")]
    assert refusal(tenant, {"based_on": rejected}) == [("/based_on", "dataset_rejected")]
    for absent in (theirs, "ds_" + "0" * 32):
        assert refusal(tenant, {"based_on": absent}) == [("/based_on", "not_found")]
    made = tenant.post("/v1/datasets", {"based_on": verifying})
    # Nothing of it is verified yet.
    asked = {"dataset_id": made["id"], "skip_verified": True}
    assert [each["present"] for each in tenant.post("/v1/uploads", asked)["data"]] == [True]


def test_a_version_counts_with_all_its_files_in_the_quotas(
    fleet: Fleet, tenant: Tenant, store: Database
) -> None:
    base = ready(store, tenant)
    assert stored_bytes(tenant) == 5
    tenant.post("/v1/datasets", {"based_on": base, "files": listed({"n.jpg": b"four"})})
    assert stored_bytes(tenant) == 14

    with store.transaction() as conn:
        conn.execute(
            "INSERT INTO quotas (tenant_id, storage_bytes) VALUES (%s, 18)",
            (tenant_id_of(store, tenant),),
        )
    refused = tenant.http.post("/v1/datasets", json={"based_on": base})
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert len(tenant.get("/v1/datasets")["data"]) == 2
    assert tenant.post("/v1/datasets", {"based_on": base, "removed": ["a.jpg"]})["based_on"] == base


def test_a_base_that_is_deleted_leaves_its_versions_whole(tenant: Tenant, store: Database) -> None:
    base = ready(store, tenant)
    made = tenant.post("/v1/datasets", {"based_on": base})
    assert tenant.http.delete(f"/v1/datasets/{base}").status_code == 202
    tenant.complete(made["id"])
    assert tenant.get(f"/v1/datasets/{made['id']}")["based_on"] == base
    assert len(files_in(tenant, made["id"])) == len(FILES)
    assert refusal(tenant, {"based_on": base}) == [("/based_on", "not_found")]


def test_what_differs_between_two_datasets_is_told_page_by_page(
    fleet: Fleet, tenant: Tenant, store: Database
) -> None:
    old = ready(store, tenant)
    new = {"a.jpg": b"1", "b/a.jpg": b"changed", "b/a.txt": b"3", "c.jpg": b"6", "n/c.txt": b"7"}
    later = tenant.push(new)
    seen: list[Json] = []
    path = f"/v1/datasets/{old}/diff?against={later}&limit=2"
    page = tenant.get(path)
    assert (page["object"], page["before"], page["after"]) == ("dataset_diff", old, later)
    assert page["totals"] == {"added": 2, "removed": 2, "changed": 1, "unchanged": 2}
    while True:
        seen += page["changes"]
        if not page["has_more"]:
            break
        assert len(page["changes"]) == 2
        page = tenant.get(f"{path}&after={page['next_cursor']}")
        assert page["totals"] is None
    assert page["next_cursor"] is None
    assert [(each["path"], each["change"], each["media"]) for each in seen] == [
        ("b/a.jpg", "changed", "image"),
        ("b/b.jpg", "removed", "image"),
        ("c.jpg", "added", "image"),
        ("n/c.txt", "added", "caption"),
        ("z.jpg", "removed", "image"),
    ]
    facts = {each["path"]: (each["size_bytes"], each["sha256"]) for each in seen}
    for path, body in {"b/a.jpg": b"changed", "b/b.jpg": b"4", "c.jpg": b"6"}.items():
        assert facts[path] == (len(body), hashlib.sha256(body).hexdigest())

    same = tenant.get(f"/v1/datasets/{old}/diff?against={old}")
    assert (same["changes"], same["totals"]["unchanged"]) == ([], len(FILES))
    back = tenant.get(f"/v1/datasets/{later}/diff?against={old}")["totals"]
    assert back == {"added": 2, "removed": 2, "changed": 1, "unchanged": 2}

    theirs = new_tenant(fleet, "eve").push(new)
    for pair in ((old, theirs), (theirs, old), (old, "ds_x")):
        answer = tenant.http.get(f"/v1/datasets/{pair[0]}/diff", params={"against": pair[1]})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    for query in ("", f"against={later}&after=%00", f"against={later}&limit=1001"):
        answer = tenant.http.get(f"/v1/datasets/{old}/diff?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_the_files_of_a_dataset_are_listed_page_by_page(
    fleet: Fleet, tenant: Tenant, store: Database
) -> None:
    dataset_id = ready(store, tenant)
    first = tenant.get(f"/v1/datasets/{dataset_id}/files?limit=3")
    rest = tenant.get(f"/v1/datasets/{dataset_id}/files?limit=3&after={first['next_cursor']}")
    assert (first["has_more"], rest["has_more"]) == (True, False)
    found = [*first["data"], *rest["data"]]
    assert {each["path"]: each["sha256"] for each in found} == {
        each["path"]: each["sha256"] for each in listed(FILES)
    }
    assert [each["path"] for each in found] == sorted(FILES)
    theirs = new_tenant(fleet, "eve").http.get(f"/v1/datasets/{dataset_id}/files")
    assert theirs.status_code == 404
