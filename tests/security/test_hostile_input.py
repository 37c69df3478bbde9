"""Text, names and bodies made to hurt: bounded, refused with a code, or stored as sent."""

import json
import uuid

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fleet import Fleet
from tests.support.tenant import Json, Tenant

JSON = {"Content-Type": "application/json"}
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HURTING = st.sampled_from(["'", '"', ";--", "\\", "%s", "{{7*7}}", "$(id)", "\u202e", "\x1b[2J"])
"""Quotes of SQL, templates and shells, a mark that turns text around, a terminal's command."""


def file_named(path: str) -> Json:
    return {"path": path, "size_bytes": 1, "sha256": "0" * 64}


def create(tenant: Tenant, *paths: str, name: str = "photos") -> httpx.Response:
    body = {"name": name, "files": [file_named(path) for path in paths]}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    return tenant.http.post("/v1/datasets", content=json.dumps(body), headers=key | JSON)


@pytest.mark.parametrize(
    "path",
    [
        "../a.jpg",
        "a/../../b.jpg",
        "a/./b.jpg",
        "/etc/a.jpg",
        "//host/a.jpg",
        "C:/a.jpg",
        "C:\\a.jpg",
        "a\\..\\b.jpg",
        "a//b.jpg",
        "a.jpg/",
        "",
        ".jpg/..",
        "a\0.jpg",
        "a\n.jpg",
        "a\x1b[2J.jpg",
        "a\u202egpj.txt",
        "a\u2066b.jpg",
        "a\x9b2J.jpg",
        "a\u200b.jpg",
        "\ufeffa.jpg",
        "CON.jpg",
        "a/nul.txt",
        "a./b.jpg",
        "a /b.jpg",
        "a\u0301.jpg",  # not NFC
        "a" * 600 + ".jpg",
        "a.zip",
        "a.svg",
        "a.jpg.exe",
    ],
)
def test_a_file_name_that_could_leave_its_folder_or_deceive_is_refused(
    tenant: Tenant, path: str
) -> None:
    answer = create(tenant, path)
    assert answer.status_code == 422, path
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "paths",
    [
        *(("a.jpg", "A.jpg"), ("a.jpg", "a.jpg"), ("ß.jpg", "SS.jpg")),
        *(("a.txt", "a.txt/b.jpg"), ("B.JPG/c/d.jpg", "a.txt", "b.jpg", "b.jpg.txt")),
    ],
)
def test_names_that_one_file_system_would_take_for_one_are_refused(
    tenant: Tenant, paths: tuple[str, ...]
) -> None:
    answer = create(tenant, *paths)
    assert answer.status_code == 422
    assert [each["code"] for each in answer.json()["errors"]] == ["conflict"]


def test_names_that_some_system_cannot_store_and_folders_that_it_joins_are_taken(
    tenant: Tenant,
) -> None:
    odd = ("a*.jpg", "what is it?.jpg", "a<b.jpg", "a|b.jpg", 'a"b.jpg', "12:30.jpg")
    assert create(tenant, *odd, "a/b.jpg", "A/c.jpg").status_code == 201


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/members", {"role": "viewer"}),
        ("/v1/api-keys", {}),
        ("/v1/datasets", {"files": [file_named("a.jpg")]}),
        ("/v1/batches", {"runs": [{"config": {}, "data_backends": [], "datasets": {}}]}),
    ],
)
def test_a_name_that_would_command_a_terminal_is_refused(
    tenant: Tenant, path: str, body: Json
) -> None:
    for character in "\x1b\n\t\x7f\x9b\u202e\u200b":
        answer = tenant.http.post(path, json={**body, "name": f"red{character}owner"})
        assert answer.status_code == 422, (path, character)
        (problem,) = answer.json()["errors"]
        assert problem["pointer"] == "/name"
        assert "no control character" in problem["message"]


@given(parts=st.lists(HURTING | st.text(max_size=8), min_size=1, max_size=5))
@QUICK
def test_text_is_refused_or_stored_exactly_as_sent(tenant: Tenant, parts: list[str]) -> None:
    name = "".join(parts)
    answer = create(tenant, "a.jpg", name=name)
    if answer.status_code == 201:
        assert answer.json()["name"] == name
        assert tenant.get(f"/v1/datasets/{answer.json()['id']}")["name"] == name
    else:
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["code"] in ("invalid_json", "invalid_request")


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param(b"[" * 100_000, {400}, id="deep lists"),
        pytest.param(b'{"a":' * 1000 + b"1" + b"}" * 1000, {400}, id="deep objects"),
        pytest.param(b'{"name":' + b"9" * 100_000 + b"}", {400}, id="a long number"),
        pytest.param(b'{"name": 1e400}', {400, 422}, id="a huge number"),
        pytest.param(b'{"name": NaN}', {400, 422}, id="NaN"),
        pytest.param(b'{"name": "a", "name": "b"}', {400}, id="a key twice"),
        pytest.param(b'{"name": "\xff"}', {400}, id="not UTF-8"),
        pytest.param(b'{"name": "\\ud800"}', {422}, id="half a pair"),
        pytest.param(b'{"name": "\\u0000"}', {422}, id="NUL"),
        pytest.param(b'"' + b"a" * (33 << 20) + b'"', {413}, id="33 MiB"),
    ],
)
def test_a_body_that_costs_more_than_it_says_is_refused(
    tenant: Tenant, body: bytes, statuses: set[int]
) -> None:
    answer = tenant.http.post("/v1/datasets", content=body, headers=JSON)
    assert answer.status_code in statuses, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_terminal_that_shows_the_log_is_not_commanded(fleet: Fleet, tenant: Tenant) -> None:
    tenant.http.get("/v1/runs/%1B%5B2J%0Aforged%20line")
    log = fleet.tail("api", 1 << 20)
    assert "\x1b[2J" not in log
    assert "\nforged line" not in log
