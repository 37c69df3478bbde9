"""Event streams, tenants kept apart, a stopped database, and a quick stop of the API."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from services.domain.ledger import ChildEvent
from services.store import run_events
from services.store.database import Database
from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.service import database_of, new_tenant, push_unread, run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until

SSE = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false", REVERIE_GPU_CLASS="h200")
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    return push_unread(tenant)


@pytest.fixture
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


def report(store: Database, run_id: str, *steps: int) -> None:
    """Write events as a trainer's ledger does, without a trainer."""
    with store.transaction() as conn:
        events = [ChildEvent(type="step", step=step, data={"loss": 1 / step}) for step in steps]
        run_events.append(conn, run_id, events)


class Listener(threading.Thread):
    """Reads one stream to its end, in the background."""

    def __init__(self, tenant: Tenant, run_id: str, last_id: int | None = None) -> None:
        super().__init__(daemon=True)
        self._tenant, self._path = tenant, f"/v1/runs/{run_id}/events"
        self._headers = SSE | ({} if last_id is None else {"Last-Event-ID": str(last_id)})
        self.events: list[Json] = []
        self.lines: list[str] = []
        self.status = 0
        self.start()

    def run(self) -> None:
        with self._tenant.http.stream(
            "GET", self._path, headers=self._headers, timeout=60
        ) as stream:
            self.status = stream.status_code
            for line in stream.iter_lines():
                self.lines.append(line)
                if line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))

    def wait_for(self, count: int, *, deadline_s: float = 15) -> None:
        wait_until(
            lambda: len(self.events) >= count,
            deadline_s=deadline_s,
            what=f"{count} events",
            every_s=0.02,
        )


def test_a_stream_sends_the_stored_events_and_then_each_new_one(
    tenant: Tenant, datasets: dict[str, str], store: Database
) -> None:
    run_id = tenant.submit(run_request(datasets))
    report(store, run_id, 1, 2)
    all_of_it, rest = Listener(tenant, run_id), Listener(tenant, run_id, last_id=2)
    all_of_it.wait_for(3)
    started_s = time.monotonic()
    report(store, run_id, 3)
    all_of_it.wait_for(4)
    rest.wait_for(2)
    assert (
        time.monotonic() - started_s < 3
    )  # by the notification, not by the poll every five seconds
    tenant.post(f"/v1/runs/{run_id}:cancel", {})
    for listener in (all_of_it, rest):
        listener.join(10)
        assert not listener.is_alive()

    listed = tenant.events(run_id)
    assert [e["id"] for e in listed] == [1, 2, 3, 4, 5, 6]
    assert all_of_it.events == listed
    assert rest.events == listed[2:]
    assert listed[-1]["type"] == "run.canceled"
    assert all_of_it.lines[0] == "retry: 3000"
    assert "id: 6" in all_of_it.lines
    assert "event: run.canceled" in all_of_it.lines
    for last_id, status in ((6, 204), (99, 204), (5, 200)):
        headers = SSE | {"Last-Event-ID": str(last_id)}
        answer = tenant.http.get(f"/v1/runs/{run_id}/events", headers=headers)
        assert answer.status_code == status
    bad = tenant.http.get(f"/v1/runs/{run_id}/events", headers=SSE | {"Last-Event-ID": "x"})
    assert bad.status_code == 422
    assert tenant.get(f"/v1/runs/{run_id}/events?after=4&limit=1")["next_cursor"] == "5"


def test_a_stream_after_the_last_event_ends_with_the_run(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    run_id = tenant.submit(run_request(datasets))
    listener = Listener(tenant, run_id, last_id=1000)
    wait_until(lambda: bool(listener.lines), deadline_s=15, what="the stream")
    tenant.post(f"/v1/runs/{run_id}:cancel", {})
    listener.join(10)
    assert not listener.is_alive()
    assert listener.events == []


def test_a_stream_ends_soon_after_its_key(
    fleet: Fleet, tenant: Tenant, datasets: dict[str, str], store: Database
) -> None:
    run_id = tenant.submit(run_request(datasets))
    bob = tenant.post("/v1/members", {"name": "bob", "role": "member"})["id"]
    named = {"revoked": {}, "expired": {}, "of a removed member": {"member_id": bob}, "kept": {}}
    keys = {
        name: tenant.post("/v1/api-keys", {"name": name, **more}) for name, more in named.items()
    }
    opened = {
        name: Listener(Tenant(fleet.url, key["secret"]), run_id) for name, key in keys.items()
    }
    for each in opened.values():
        each.wait_for(1)
    tenant.http.delete(f"/v1/api-keys/{keys['revoked']['id']}")
    tenant.http.delete(f"/v1/members/{bob}")
    with store.transaction() as conn:
        expire = "UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s"
        conn.execute(expire, (keys["expired"]["id"],))

    kept = opened.pop("kept")
    for each in opened.values():
        each.join(15)
        assert not each.is_alive()
    report(store, run_id, 1)
    kept.wait_for(2)
    assert [len(each.events) for each in opened.values()] == [1, 1, 1]
    tenant.post(f"/v1/runs/{run_id}:cancel", {})
    kept.join(10)
    assert not kept.is_alive()


def test_many_streams_of_many_runs_get_their_own_events(
    tenant: Tenant, datasets: dict[str, str], store: Database
) -> None:
    run_ids = [tenant.submit(run_request(datasets)) for _ in range(3)]
    listeners = [(run_id, Listener(tenant, run_id)) for run_id in run_ids for _ in range(4)]
    for step in range(1, 30):
        for run_id in run_ids:
            report(store, run_id, step)
    for run_id in run_ids:
        tenant.post(f"/v1/runs/{run_id}:cancel", {})
    for run_id, listener in listeners:
        listener.join(20)
        assert listener.events == tenant.events(run_id)


def test_objects_of_another_tenant_are_not_found(
    fleet: Fleet, tenant: Tenant, datasets: dict[str, str]
) -> None:
    run_id, other = tenant.submit(run_request(datasets)), new_tenant(fleet, "grace")
    for path in (
        f"/v1/runs/{run_id}",
        f"/v1/runs/{run_id}/events",
        f"/v1/runs/{run_id}/checkpoints",
        f"/v1/runs/{run_id}/result",
        f"/v1/datasets/{datasets['photos']}",
    ):
        theirs, nobodys = other.http.get(path), other.http.get(path[:-4] + "0000")
        assert (theirs.status_code, theirs.json()["code"]) == (404, "not_found")
        assert nobodys.status_code == 404
    assert other.http.get(f"/v1/runs/{run_id}/events", headers=SSE).status_code == 404
    for path, body in (
        (f"/v1/runs/{run_id}:cancel", {}),
        (f"/v1/datasets/{datasets['photos']}:complete", {}),
        ("/v1/uploads", {"dataset_id": datasets["photos"]}),
        ("/v1/publications", {"run_id": run_id, "target": {"kind": "folder"}}),
    ):
        answer = other.http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    borrowed = other.http.post("/v1/runs", json=run_request(datasets))
    assert {(e["pointer"], e["code"]) for e in borrowed.json()["errors"]} == {
        ("/datasets/photos", "not_found"),
        ("/datasets/held-out", "not_found"),
    }
    for kind in ("runs", "datasets", "publications"):
        assert other.get(f"/v1/{kind}")["data"] == []
    assert other.get(f"/v1/publications?run_id={run_id}")["data"] == []
    # The same key of another tenant is another key.
    headers = {"Idempotency-Key": "shared"}
    dataset = {"name": "a", "files": [{"path": "a.jpg", "size_bytes": 1, "sha256": "0" * 64}]}
    answers = [t.http.post("/v1/datasets", json=dataset, headers=headers) for t in (tenant, other)]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert tenant.run(run_id)["status"] == "queued"


def test_the_hub_is_refused_where_there_are_several_tenants(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    request = run_request(datasets, push_to_hub=True, hub_model_id="ada/cats")
    answer = tenant.http.post("/v1/runs", json=request)
    assert answer.status_code == 422
    assert ("/config/hub_model_id", "refused") in {
        (e["pointer"], e["code"]) for e in answer.json()["errors"]
    }
    target = {"kind": "hub", "repo_id": "ada/cats"}
    body = {"run_id": tenant.submit(run_request(datasets)), "target": target}
    assert tenant.http.post("/v1/publications", json=body).json()["code"] == "invalid_request"
    body["target"] = {"kind": "folder"}
    early = tenant.http.post("/v1/publications", json=body)
    assert (early.status_code, early.json()["errors"][0]["code"]) == (422, "no_result")


def test_a_cpu_is_refused_where_the_workers_have_gpus(
    tenant: Tenant, datasets: dict[str, str]
) -> None:
    answer = tenant.http.post("/v1/runs", json=run_request(datasets, **{"--device": "cpu"}))
    assert answer.status_code == 422
    ((pointer, code, message),) = [
        (e["pointer"], e["code"], e["message"]) for e in answer.json()["errors"]
    ]
    assert (pointer, code) == ("/config/--device", "refused")
    assert "h200" in message


def test_requests_without_a_known_key_are_unauthenticated(fleet: Fleet, tenant: Tenant) -> None:
    for authorization in ("Bearer rv_" + "x" * 43, "Bearer rv_", "Bearer", "Basic cm9vdA==", ""):
        answer = httpx.post(
            f"{fleet.url}/v1/runs", content=b"{", headers={"Authorization": authorization}
        )
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthenticated"
    key = tenant.http.headers["Authorization"]
    assert key.removeprefix("Bearer ") not in fleet.tail("api", 1 << 20)
    assert "signature=" not in fleet.tail("api", 1 << 20)


def test_a_body_with_another_content_type_than_json_is_refused(tenant: Tenant) -> None:
    answer = tenant.http.post("/v1/runs", data={"config": "{}"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.deep
def test_requests_get_503_while_the_database_is_down(
    fleet: Fleet,
    tenant: Tenant,
    datasets: dict[str, str],
    store: Database,
    postgres_server: PostgresServer,
) -> None:
    run_id = tenant.submit(run_request(datasets))
    listener = Listener(tenant, run_id)
    listener.wait_for(1)
    postgres_server.stop("immediate")
    try:
        listener.join(20)
        assert not listener.is_alive()  # the client comes back with Last-Event-ID
        for path, status in (("/healthz", 200), ("/readyz", 503), ("/v1/runs", 503)):
            answer = tenant.http.get(path, timeout=30)
            assert answer.status_code == status
        assert answer.json()["retryable"] is True
        assert answer.headers["Retry-After"]
        assert "postgresql" not in answer.text
    finally:
        postgres_server.start()
    fleet.wait_ready()
    again = Listener(tenant, run_id, last_id=1)
    wait_until(lambda: again.lines, deadline_s=10, what="the stream to be open")

    def heard() -> bool:
        seen = len(again.events)
        started_s = time.monotonic()
        report(store, run_id, seen + 1)
        again.wait_for(seen + 1)
        return time.monotonic() - started_s < 2

    wait_until(heard, deadline_s=30, what="notices to arrive again")
    key = {"Idempotency-Key": "cancel"}

    def canceled() -> bool:  # each process of the API notices by itself that the database is back
        answer = tenant.http.post(f"/v1/runs/{run_id}:cancel", json={}, headers=key)
        assert answer.status_code in {202, 503}
        return answer.status_code == 202

    wait_until(canceled, deadline_s=30, what="the run to be canceled")
    again.join(10)
    assert [e["id"] for e in again.events] == list(range(2, len(again.events) + 2))


def test_a_stop_ends_open_streams_at_once(
    fleet: Fleet, tenant: Tenant, datasets: dict[str, str]
) -> None:
    listener = Listener(tenant, tenant.submit(run_request(datasets)))
    listener.wait_for(1)
    started_s = time.monotonic()
    fleet.signal("api", signal.SIGTERM)
    assert fleet.wait("api", deadline_s=20) == 0
    assert time.monotonic() - started_s < 8
    listener.join(5)
    assert listener.status == 200
    assert "Traceback" not in fleet.tail("api", 1 << 20)
