"""What every address has in common: HEAD, no-store, ETag, links of lists, strict parameters."""

import asyncio
import re
from datetime import UTC, datetime

import httpx
import pytest

from services.api.app import create_app
from services.api.deprecation import Deprecation
from services.settings.env import Settings
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_key, push_unread, run_request
from tests.support.tenant import Json, Tenant


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    return push_unread(tenant)


@pytest.fixture(scope="module")
def runs(tenant: Tenant, datasets: dict[str, str]) -> list[str]:
    """Three runs, newest first."""
    return [tenant.submit(run_request(datasets)) for _ in range(3)][::-1]


@pytest.fixture(scope="module")
def addresses(fleet: Fleet, runs: list[str], datasets: dict[str, str]) -> list[str]:
    """Every address for tenants that has a GET; what is missing is answered with 404."""
    paths = httpx.get(f"{fleet.url}/openapi.json").json()["paths"]
    ids = {"run_id": runs[0], "dataset_id": datasets["photos"]}
    found = [
        re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], "nothing"), path)
        for path, item in paths.items()
        if "get" in item and not path.startswith("/v1/admin/")
    ]
    assert len(found) > 10
    return found


def stable(answer: httpx.Response) -> dict[str, str]:
    """The headers that two equal requests share."""
    changing = {"x-request-id", "ratelimit", "date"}
    return {name: value for name, value in answer.headers.items() if name not in changing}


def test_head_answers_like_get_without_a_body(tenant: Tenant, addresses: list[str]) -> None:
    for path in addresses:
        got, head = tenant.http.get(path), tenant.http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert stable(head) == stable(got), path
    # On one connection with GETs: a body that came all the same would be read as the next answer.
    assert tenant.http.get("/v1/runs").status_code == 200


def test_head_of_a_stream_ends_at_once(tenant: Tenant, runs: list[str]) -> None:
    answer = tenant.http.head(f"/v1/runs/{runs[0]}/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_method_that_is_not_there_names_head_beside_get(tenant: Tenant) -> None:
    answer = tenant.http.delete("/v1/runs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert tenant.http.head("/v1/uploads").status_code == 405


def test_no_answer_may_be_stored(tenant: Tenant, addresses: list[str]) -> None:
    for path in [*addresses, "/v1/nothing"]:
        assert tenant.http.get(path).headers["cache-control"] == "no-store", path
    assert httpx.get(f"{tenant.http.base_url}/v1/runs").headers["cache-control"] == "no-store"
    assert tenant.http.post("/v1/runs", json={}).headers["cache-control"] == "no-store"


def test_links_lead_through_a_list_with_its_parameters_kept(
    tenant: Tenant, runs: list[str]
) -> None:
    path, seen = "/v1/runs?limit=2", []
    while True:
        answer = tenant.http.get(path)
        seen += [run["id"] for run in answer.json()["data"]]
        assert answer.links["first"]["url"] == "/v1/runs?limit=2"
        if "next" not in answer.links:
            break
        path = answer.links["next"]["url"]
        assert path.startswith("/v1/runs?limit=2&after=run_")
    assert seen == runs

    filtered = tenant.http.get("/v1/publications", params={"run_id": runs[0], "limit": 1})
    assert filtered.links == {
        "first": {"url": f"/v1/publications?run_id={runs[0]}&limit=1", "rel": "first"}
    }


def test_an_answer_that_the_client_has_is_not_sent_again(
    tenant: Tenant, addresses: list[str]
) -> None:
    matched = 0
    for path in addresses:
        first = tenant.http.get(path)
        if "etag" not in first.headers:
            continue
        etag = first.headers["etag"]
        for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = tenant.http.get(path, headers={"If-None-Match": sent})
            assert (again.status_code, again.content) == (304, b""), (path, sent)
            assert again.headers["etag"] == etag
            assert again.headers["cache-control"] == "no-store"
        other = tenant.http.get(path, headers={"If-None-Match": '"other"'})
        assert other.content == first.content
        matched += 1
    assert matched > 5


def test_the_etag_changes_with_each_part_of_the_answer(
    tenant: Tenant, fleet: Fleet, runs: list[str]
) -> None:
    """Also with a part that changes without the version, such as the step."""
    before = tenant.http.get(f"/v1/runs/{runs[1]}")
    with database_of(fleet) as database, database.transaction() as conn:
        conn.execute("UPDATE runs SET step = step + 1 WHERE run_id = %s", (runs[1],))
    after = tenant.http.get(f"/v1/runs/{runs[1]}")
    assert before.json()["version"] == after.json()["version"]
    assert before.headers["etag"] != after.headers["etag"]


def test_if_match_refuses_what_has_changed(tenant: Tenant, datasets: dict[str, str]) -> None:
    run_id = tenant.submit(run_request(datasets))
    cancel = f"/v1/runs/{run_id}:cancel"
    known = tenant.http.get(f"/v1/runs/{run_id}")
    version = known.json()["version"]

    def answer(sent: str) -> tuple[int, str]:
        refused = tenant.http.post(cancel, headers={"If-Match": sent})
        return refused.status_code, refused.json()["code"]

    for other in (f'"{version + 1}"', f'"{version - 1}-abc"', f'W/"{version}"', '"a", "b"'):
        assert answer(other) == (412, "version_mismatch"), other
    for wrong in (f"{version}", '"', "W/1", '"a" "b"'):
        assert answer(wrong) == (422, "invalid_request"), wrong
    assert tenant.run(run_id)["status"] == "queued"

    done = tenant.http.post(cancel, headers={"If-Match": known.headers["etag"]})
    assert (done.status_code, done.json()["status"]) == (202, "canceled")
    assert answer(known.headers["etag"]) == (412, "version_mismatch")
    now = done.json()["version"]
    for fitting in (f'"{now}"', f'"1", "{now}"', "*"):
        assert tenant.http.post(cancel, headers={"If-Match": fitting}).status_code == 202


def test_a_parameter_that_is_not_there_is_refused(tenant: Tenant, addresses: list[str]) -> None:
    def problems(path: str) -> list[Json]:
        answer = tenant.http.get(path)
        assert answer.status_code == 422, path
        return list(answer.json()["errors"])

    (unknown,) = problems("/v1/runs?limits=5")
    assert unknown["pointer"] == "query:limits"
    assert unknown["code"] == "unknown_parameter"
    assert unknown["message"] == "There is no such parameter; the nearest is limit."
    far = problems("/v1/secrets?zzz=1")[0]["message"]
    assert far == "There is no such parameter; this address has after, limit."
    assert [each["pointer"] for each in problems("/v1/runs?a=1&b=&a=2")] == ["query:a", "query:b"]
    (twice,) = problems("/v1/runs?limit=5&limit=6")
    assert (twice["pointer"], twice["code"]) == ("query:limit", "repeated")
    for path in addresses:
        if path.startswith("/v1/"):
            assert problems(f"{path}?no_such_parameter=1")[0]["code"] == "unknown_parameter"
    refused = tenant.http.post("/v1/runs?dry_run=true", json={})
    assert refused.json()["errors"][0]["message"].endswith("this address has none.")


@pytest.mark.parametrize("name", ["Idempotency-Key", "If-Match", "Content-Type"])
def test_a_header_that_may_come_once_is_refused_twice(tenant: Tenant, name: str) -> None:
    value = "application/json" if name == "Content-Type" else '"1"'
    fields = {"Content-Type": "application/json"}
    twice = [*fields.items(), (name, value)]
    if name not in fields:
        twice.append((name, value))
    answer = tenant.http.post("/v1/datasets", content=b"{}", headers=twice)
    assert (answer.status_code, answer.json()["code"]) == (400, "repeated_header")
    assert name in answer.json()["detail"]


def test_an_operation_that_will_go_away_says_so(fleet: Fleet) -> None:
    end = Deprecation(
        since=datetime(2026, 1, 2, tzinfo=UTC),
        sunset=datetime(2026, 7, 1, tzinfo=UTC),
        link="https://example.org/upgrading",
    )
    app = create_app(Settings.from_env(fleet.env), deprecated={"GET /v1/runs/{run_id}": end})
    key = new_key(fleet.env["REVERIE_DATABASE_URL"], "grace")

    async def answers() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api",
            headers={"Authorization": f"Bearer {key}"},
        ) as client:
            return [await client.get(path) for path in ("/v1/runs/none", "/v1/runs")]

    missing, others = asyncio.run(answers())
    for database in (app.state.service.database, app.state.service.unscoped):
        database.close()
    assert missing.status_code == 404
    assert missing.headers["deprecation"] == "@1767312000"
    assert missing.headers["sunset"] == "Wed, 01 Jul 2026 00:00:00 GMT"
    assert missing.links["deprecation"]["url"] == "https://example.org/upgrading"
    assert "deprecation" not in others.headers
    paths = app.openapi()["paths"]
    assert paths["/v1/runs/{run_id}"]["get"]["deprecated"] is True
    assert "Sunset" in paths["/v1/runs/{run_id}"]["get"]["responses"]["200"]["headers"]
    assert "deprecated" not in paths["/v1/runs"]["get"]
