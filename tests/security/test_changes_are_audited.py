"""Every route that changes something records it in the audit log, with who did it and to what.

A new route needs an entry here: a request that changes something, or the reason why it records
nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from services.store import operator_keys, tenants
from services.store.database import Database
from tests.support.api_keys import KEY_PEPPER
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant, run_request
from tests.support.tenant import Json

NOT_RECORDED: Final = {
    "POST /v1/runs:validate": "it stores nothing",
    "POST /v1/uploads": "it signs addresses, and the dataset lists every file already",
    "POST /v1/uploads/parts": "the same, for parts of a file",
    "POST /v1/uploads/parts:abort": "parts are no file yet, and the dataset stays as it is",
    "PUT /v1/admin/gpu-classes/{gpu_class}": "a price belongs to no tenant",
    "POST /v1/admin/worker-keys": "it belongs to no tenant; its row and the log name the operator",
    "DELETE /v1/admin/worker-keys/{worker_key_id}": "the same",
}
READING: Final = {"get", "head", "options"}


class World:
    """A tenant with something of each kind, and an operator."""

    def __init__(self, fleet: Fleet, database: Database) -> None:
        self.database = database
        self.ada = new_tenant(fleet, "ada")
        with database.transaction() as conn:
            (self.tenant_id,) = tenants.find(conn, "ada")
            _, secret = operator_keys.create(conn, KEY_PEPPER, name="operator")
        self.operator = httpx.Client(
            base_url=fleet.url, timeout=30, headers={"Authorization": f"Bearer {secret}"}
        )
        self.dataset = self.ada.push({"a.jpg": b"not looked at here"})
        self.key_id = self.ada.get("/v1/api-keys")["data"][0]["id"]

    def request(self) -> Json:
        return run_request(dict.fromkeys(("photos", "held-out"), self.dataset))

    def run(self) -> str:
        return self.ada.submit(self.request())

    def paused(self) -> str:
        run_id = self.run()
        self.ada.post(f"/v1/runs/{run_id}:pause", {})
        return run_id

    def over(self) -> str:
        run_id = self.run()
        self.ada.post(f"/v1/runs/{run_id}:cancel", {})
        return run_id

    def finished(self) -> str:
        """A run with a result, as far as a publication looks at it."""
        run_id = self.run()
        with self.database.transaction() as conn:
            conn.execute(
                "UPDATE runs SET status = 'succeeded', stage = NULL, result_manifest_sha256 = 'a',"
                " result_key_prefix = 'x/', result_size_bytes = 1, result_step = 1"
                " WHERE run_id = %s",
                (run_id,),
            )
        return run_id

    def member(self) -> str:
        made = self.ada.post("/v1/members", {"name": "bob", "role": "viewer"})
        return str(made["id"])

    def key(self) -> str:
        return str(self.ada.post("/v1/api-keys", {"name": "ci"})["id"])

    def secret(self) -> str:
        body = {"kind": "hub", "value": "hf_0123456789abcdef"}
        return str(
            self.ada.http.put("/v1/secrets/spare", json=body).raise_for_status().json()["id"]
        )

    def webhook(self) -> str:
        return str(self.ada.post("/v1/webhooks", {"url": "https://example.com"})["id"])

    def delivery(self) -> tuple[str, str]:
        """A webhook, and something that was sent to it."""
        webhook_id = self.webhook()
        return webhook_id, self.ada.post(f"/v1/webhooks/{webhook_id}:test", {})["id"]

    def tenant(self) -> str:
        return str(self.operator.post("/v1/admin/tenants", json={"name": "bob"}).json()["id"])

    def events(self, tenant_id: str) -> list[Json]:
        with self.database.transaction() as conn:
            rows = conn.execute(
                "SELECT action, target, actor, client FROM audit_events WHERE tenant_id = %s"
                " ORDER BY seq",
                (tenant_id,),
            ).fetchall()
        return [
            dict(zip(("action", "target", "actor", "client"), row, strict=True)) for row in rows
        ]


Made = tuple[httpx.Response, str | None]
"""The answer, and the id that the event names; None: the id in the answer."""
Change = Callable[[World], Made]


def post(path: str, body: Callable[[World], Any]) -> Change:
    return lambda w: (w.ada.http.post(path, json=body(w)), None)


def act(method: str, path: str, target: Callable[[World], str], body: Any = None) -> Change:
    def change(w: World) -> Made:
        id_ = target(w)
        return w.ada.http.request(method, path.format(id_), json=body), id_

    return change


def operate(method: str, path: str, target: Callable[[World], str], body: Any = None) -> Change:
    def change(w: World) -> Made:
        id_ = target(w)
        address = path.format(id_, tenant_id=w.tenant_id)
        return w.operator.request(method, address, json=body), id_

    return change


def cancel_batch(w: World) -> Made:
    batch = w.ada.post("/v1/batches", {"runs": [w.request()]})
    answer = w.ada.http.post(f"/v1/batches/{batch['id']}:cancel", json={})
    return answer, batch["runs"][0]["run_id"]


def replay(w: World) -> Made:
    webhook_id, delivery_id = w.delivery()
    address = f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}:replay"
    return w.ada.http.post(address, json={}), webhook_id


CHANGES: Final[dict[str, tuple[str, Change]]] = {
    "POST /v1/datasets": (
        "dataset.created",
        post(
            "/v1/datasets",
            lambda w: {
                "name": "b",
                "files": [{"path": "b.jpg", "size_bytes": 1, "sha256": "b" * 64}],
            },
        ),
    ),
    "POST /v1/datasets/{dataset_id}:complete": (
        "dataset.completed",
        act(
            "POST",
            "/v1/datasets/{}:complete",
            lambda w: w.ada.push({"c.jpg": b"c"}, complete=False),
            {},
        ),
    ),
    "DELETE /v1/datasets/{dataset_id}": (
        "dataset.deletion_requested",
        act("DELETE", "/v1/datasets/{}", lambda w: w.ada.push({"d.jpg": b"d"})),
    ),
    "POST /v1/runs": (
        "run.created",
        post("/v1/runs", World.request),
    ),
    "POST /v1/runs/{run_id}:cancel": (
        "run.canceled",
        act("POST", "/v1/runs/{}:cancel", World.run, {}),
    ),
    "POST /v1/runs/{run_id}:clone": (
        "run.created",
        lambda w: (w.ada.http.post(f"/v1/runs/{w.run()}:clone", json={"changes": {}}), None),
    ),
    "POST /v1/runs/{run_id}:pause": ("run.paused", act("POST", "/v1/runs/{}:pause", World.run, {})),
    "POST /v1/runs/{run_id}:resume": (
        "run.resumed",
        act("POST", "/v1/runs/{}:resume", World.paused, {}),
    ),
    "PATCH /v1/runs/{run_id}": (
        "run.changed",
        act("PATCH", "/v1/runs/{}", World.run, {"priority": "high"}),
    ),
    "POST /v1/batches": (
        "batch.created",
        post("/v1/batches", lambda w: {"runs": [w.request()]}),
    ),
    "POST /v1/batches/{batch_id}:cancel": ("run.canceled", cancel_batch),
    "DELETE /v1/runs/{run_id}": (
        "run.deletion_requested",
        act("DELETE", "/v1/runs/{}", World.over),
    ),
    "POST /v1/publications": (
        "publication.created",
        post(
            "/v1/publications",
            lambda w: {"run_id": w.finished(), "target": {"kind": "folder"}},
        ),
    ),
    "PUT /v1/secrets/{name}": (
        "secret.stored",
        lambda w: (
            w.ada.http.put("/v1/secrets/hub", json={"kind": "hub", "value": "hf_0123456789abcdef"}),
            None,
        ),
    ),
    "DELETE /v1/secrets/{name}": (
        "secret.deleted",
        lambda w: (w.secret(), w.ada.http.delete("/v1/secrets/spare"))[::-1],
    ),
    "POST /v1/webhooks": (
        "webhook.created",
        post("/v1/webhooks", lambda w: {"url": "https://example.com"}),
    ),
    "PATCH /v1/webhooks/{webhook_id}": (
        "webhook.changed",
        act("PATCH", "/v1/webhooks/{}", World.webhook, {"enabled": False}),
    ),
    "DELETE /v1/webhooks/{webhook_id}": (
        "webhook.deleted",
        act("DELETE", "/v1/webhooks/{}", World.webhook),
    ),
    "POST /v1/webhooks/{webhook_id}:rotate-secret": (
        "webhook.secret_rotated",
        act("POST", "/v1/webhooks/{}:rotate-secret", World.webhook, {}),
    ),
    "POST /v1/webhooks/{webhook_id}:test": (
        "webhook.tested",
        act("POST", "/v1/webhooks/{}:test", World.webhook, {}),
    ),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}:replay": ("webhook.replayed", replay),
    "POST /v1/members": (
        "member.created",
        post("/v1/members", lambda w: {"name": "eve", "role": "viewer"}),
    ),
    "PATCH /v1/members/{member_id}": (
        "member.changed",
        act("PATCH", "/v1/members/{}", World.member, {"role": "member"}),
    ),
    "DELETE /v1/members/{member_id}": (
        "member.removed",
        act("DELETE", "/v1/members/{}", World.member),
    ),
    "POST /v1/api-keys": ("key.created", post("/v1/api-keys", lambda w: {"name": "ci"})),
    "POST /v1/api-keys/{key_id}:rotate": (
        "key.rotated",
        act("POST", "/v1/api-keys/{}:rotate", World.key, {}),
    ),
    "DELETE /v1/api-keys/{key_id}": ("key.revoked", act("DELETE", "/v1/api-keys/{}", World.key)),
    "PATCH /v1/admin/tenants/{tenant_id}": (
        "tenant.changed",
        operate("PATCH", "/v1/admin/tenants/{}", lambda w: w.tenant_id, {"weight": 2}),
    ),
    "POST /v1/admin/tenants/{tenant_id}/api-keys": (
        "key.created",
        lambda w: (
            w.operator.post(f"/v1/admin/tenants/{w.tenant_id}/api-keys", json={"name": "ops"}),
            None,
        ),
    ),
    "DELETE /v1/admin/tenants/{tenant_id}/api-keys/{key_id}": (
        "key.revoked",
        operate("DELETE", "/v1/admin/tenants/{tenant_id}/api-keys/{}", World.key),
    ),
    "POST /v1/admin/tenants": (
        "tenant.created",
        lambda w: (w.operator.post("/v1/admin/tenants", json={"name": "carol"}), None),
    ),
    "DELETE /v1/admin/tenants/{tenant_id}": (
        "tenant.deletion_requested",
        operate("DELETE", "/v1/admin/tenants/{}?name=bob", World.tenant),
    ),
    # The last one: it stops the key of the requests above.
    "DELETE /v1/tenant": (
        "tenant.deletion_requested",
        lambda w: (w.ada.http.delete("/v1/tenant?name=ada"), w.tenant_id),
    ),
}


@pytest.fixture
def world(fleet: Fleet) -> Iterator[World]:
    with database_of(fleet) as database:
        world = World(fleet, database)
        yield world
        world.operator.close()


def test_every_change_is_in_the_audit_log(fleet: Fleet, world: World) -> None:
    document = httpx.get(f"{fleet.url}/openapi.json").json()
    changing = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if path.startswith("/v1/") and method not in READING
    }
    assert changing == CHANGES.keys() | NOT_RECORDED.keys()

    for name, (action, change) in CHANGES.items():
        answer, target = change(world)
        assert answer.is_success, (name, answer.text)
        if target is None:
            target = answer.json()["id"]
        whose = target if "tenants" in name and target.startswith("ten_") else world.tenant_id
        recorded = world.events(whose)[-1]
        assert (recorded["action"], recorded["target"]) == (action, target), name
        assert recorded["client"] == "127.0.0.1"
        kind = "operator" if "/admin/" in name else "key"
        assert recorded["actor"]["kind"] == kind, name
        if kind == "key":
            assert recorded["actor"]["id"] == world.key_id
            assert recorded["actor"]["member_id"].startswith("mem_")
