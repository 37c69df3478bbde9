"""/v1/secrets over HTTP, the client and the command line: values go in and never come out."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from services.api.secrets.sealing_key import sealing_key
from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.client.client import Client
from services.client.errors import ProblemError
from services.results.targets.tenant_hub import check_private_keys
from services.settings.env import Settings, SettingsError
from services.store.secrets import MOST_SECRETS
from tests.support.fleet import Fleet
from tests.support.service import new_tenant, push_unread, run_request
from tests.support.tenant import Json, Tenant

VALUES = {
    "hub": "hf_CanaryOfAda0123456789",
    "s3": "AKIACANARY:canary/of+the=secret",
    "wandb": "canary0canary0canary0canary0canary0canary0",
}


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false")
    fleet.start_api()
    return fleet


@pytest.fixture
def tenant(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


@pytest.fixture
def client(fleet: Fleet, tenant: Tenant) -> Iterator[Client]:
    with Client(fleet.url, key_of(tenant)) as client:
        yield client


def key_of(tenant: Tenant) -> str:
    return str(tenant.http.headers["Authorization"]).removeprefix("Bearer ")


def put(tenant: Tenant, name: str, kind: str = "hub", value: str | None = None) -> httpx.Response:
    body = {"kind": kind, "value": VALUES[kind] if value is None else value}
    return tenant.http.put(f"/v1/secrets/{name}", json=body)


def problems_of(answer: httpx.Response) -> set[tuple[str, str]]:
    return {(each["pointer"], each["code"]) for each in answer.json()["errors"]}


def test_a_secret_is_stored_replaced_listed_and_deleted(tenant: Tenant) -> None:
    made = put(tenant, "my-hub")
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/secrets/my-hub"
    secret = made.json()
    assert secret.items() >= {
        "object": "secret", "name": "my-hub", "kind": "hub", "version": 1,
        "warning": None, "last_used_at": None,
    }.items()  # fmt: skip

    again = put(tenant, "my-hub", "wandb")
    assert again.status_code == 200
    assert "location" not in again.headers
    assert (again.json()["id"], again.json()["version"]) == (secret["id"], 2)
    assert again.json()["kind"] == "wandb"
    for kind in VALUES:
        assert put(tenant, f"my-{kind}2", kind).status_code == 201

    first = tenant.get("/v1/secrets?limit=2")
    rest = tenant.get(f"/v1/secrets?after={first['next_cursor']}")
    names = [each["name"] for each in first["data"] + rest["data"]]
    assert names == ["my-wandb2", "my-s32", "my-hub2", "my-hub"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert tenant.get("/v1/secrets/my-hub") == again.json()
    assert tenant.http.delete("/v1/secrets/my-hub").status_code == 204
    for method in ("GET", "DELETE"):
        gone = tenant.http.request(method, "/v1/secrets/my-hub")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert put(tenant, "my-hub").json()["version"] == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"kind": "hub", "value": "canary"}, ("/value", "bad_value")),
        ({"kind": "hub", "value": "hf_canary canary canary"}, ("/value", "bad_value")),
        ({"kind": "hub", "value": "hf_canarycanarycanary\n"}, ("/value", "bad_value")),
        ({"kind": "s3", "value": "canary-without-a-colon"}, ("/value", "bad_value")),
        ({"kind": "wandb", "value": "canary"}, ("/value", "bad_value")),
        ({"kind": "webhook", "value": "whsec_canary"}, ("/kind", "bad_value")),
        ({"kind": "hub", "value": ["canary"]}, ("/value", "bad_value")),
        ({"kind": "git", "value": "canary"}, ("/kind", "bad_value")),
        ({"kind": "hub"}, ("/value", "missing")),
        ({"value": "canary"}, ("/kind", "missing")),
        ({"kind": "hub", "value": VALUES["hub"], "more": "canary"}, ("", "unknown_field")),
        ({"kind": "hub", "value": VALUES["hub"], "canary": 1}, ("", "unknown_field")),
        ({"kind": "hub", "value": VALUES["hub"], "canary": ["\0"]}, ("", "bad_value")),
    ],
)
def test_a_wrong_value_is_refused_and_never_quoted(
    tenant: Tenant, body: Json, problem: tuple[str, str]
) -> None:
    answer = tenant.http.put("/v1/secrets/my-hub", json=body)
    assert answer.status_code == 422
    assert problems_of(answer) == {problem}
    assert "canary" not in answer.text
    assert tenant.get("/v1/secrets")["data"] == []


def test_a_field_given_twice_and_an_unknown_parameter_are_not_quoted(tenant: Tenant) -> None:
    headers = {"Content-Type": "application/json"}
    for body in ('{"canary": 1, "canary": 2}', '{"canary": ' + "[" * 40 + "]" * 40 + "}"):
        answer = tenant.http.put("/v1/secrets/my-hub", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
        assert "canary" not in answer.text
    answer = tenant.http.get("/v1/secrets?canary=1")
    assert (answer.status_code, problems_of(answer)) == (422, {("query:", "unknown_parameter")})
    assert "canary" not in answer.text


@pytest.mark.parametrize(
    "name", ["My-Hub", "-hub", "a" * 33, "a b", "é", *(VALUES[kind] for kind in ("hub", "wandb"))]
)
def test_a_bad_name_is_refused(tenant: Tenant, name: str) -> None:
    answer = put(tenant, name)
    assert answer.status_code == 422
    assert problems_of(answer) == {("path:name", "bad_value")}
    assert tenant.http.get(f"/v1/secrets/{name}").status_code == 404


def test_a_long_body_is_refused_before_it_reaches_a_disk(tenant: Tenant) -> None:
    answer = put(tenant, "my-hub", value="hf_" + "a" * (64 << 10))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_nothing_of_the_body_is_kept_for_idempotency(fleet: Fleet, tenant: Tenant) -> None:
    body = {"kind": "hub", "value": VALUES["hub"]}
    answer = tenant.http.put("/v1/secrets/a", json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"]) as conn:
        found = conn.execute("SELECT count(*) FROM idempotency_keys WHERE key = 'k'").fetchone()
    assert found == (0,)


def test_a_tenant_has_a_limited_number(tenant: Tenant) -> None:
    for number in range(MOST_SECRETS):
        assert put(tenant, f"hub-{number}").status_code == 201
    refused = put(tenant, "one-more")
    assert (refused.status_code, problems_of(refused)) == (422, {("", "too_many")})
    assert put(tenant, "hub-0").status_code == 200
    assert tenant.http.delete("/v1/secrets/hub-0").status_code == 204
    assert put(tenant, "one-more").status_code == 201


def test_secrets_of_another_tenant_are_neither_seen_nor_changed(
    fleet: Fleet, tenant: Tenant
) -> None:
    other = new_tenant(fleet, "eve")
    assert put(tenant, "my-hub").status_code == 201
    assert other.get("/v1/secrets")["data"] == []
    for method in ("GET", "DELETE"):
        assert other.http.request(method, "/v1/secrets/my-hub").status_code == 404
    assert put(other, "my-hub").status_code == 201
    assert tenant.get("/v1/secrets/my-hub")["version"] == 1


def test_a_publication_to_the_hub_needs_a_secret_of_the_tenant(tenant: Tenant) -> None:
    def ask(**target: Any) -> httpx.Response:
        target = {"kind": "hub", "repo_id": "ada/moon", **target}
        body = {"run_id": "run_" + "0" * 32, "target": target}
        return tenant.http.post("/v1/publications", json=body)

    assert problems_of(ask()) == {("/target/kind", "refused")}
    assert problems_of(ask(secret="my-hub")) == {("/target/secret", "not_found")}
    put(tenant, "my-wandb", "wandb")
    assert problems_of(ask()) == {("/target/kind", "refused")}
    put(tenant, "my-hub")
    assert ask().status_code == 404  # only the run is missing
    put(tenant, "other")
    assert problems_of(ask()) == {("/target/secret", "missing")}
    assert ask(secret="other").status_code == 404
    assert problems_of(ask(secret="my-wandb")) == {("/target/secret", "not_found")}


def test_a_run_that_publishes_to_the_hub_names_a_secret(fleet: Fleet, tenant: Tenant) -> None:
    plain = run_request(push_unread(tenant))
    request = run_request(plain["datasets"], push_to_hub=True, hub_model_id="ada/cats")

    def ask(body: Json, **secrets: str) -> httpx.Response:
        return tenant.http.post("/v1/runs", json={**body, "secrets": secrets})

    assert problems_of(ask(request)) == {("/config/hub_model_id", "refused")}
    assert problems_of(ask(request, hub="my-hub")) == {("/secrets/hub", "not_found")}
    put(tenant, "my-hub")
    assert problems_of(ask(plain, hub="my-hub")) == {("/secrets/hub", "bad_value")}
    run = ask(request)
    assert run.status_code == 201, run.text
    put(tenant, "other")
    assert problems_of(ask(request)) == {("/secrets/hub", "missing")}
    assert ask(request, hub="other").status_code == 201
    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"]) as conn:
        named = conn.execute(
            "SELECT request -> 'secrets' FROM run_documents WHERE run_id = %s", (run.json()["id"],)
        ).fetchone()
    assert named == ({"hub": "my-hub", "wandb": None},)  # the tenant's only one of then


def test_a_run_that_reports_to_wandb_is_relayed_with_a_secret(fleet: Fleet, tenant: Tenant) -> None:
    plain = run_request(push_unread(tenant))
    request = run_request(plain["datasets"], report_to="wandb")

    def ask(body: Json, **secrets: str) -> httpx.Response:
        return tenant.http.post("/v1/runs", json={**body, "secrets": secrets})

    without = ask(request).json()
    assert without["relay"] is None
    (warning,) = (each for each in without["warnings"] if each.startswith("report_to"))
    assert "PUT /v1/secrets" in warning
    assert problems_of(ask(plain, wandb="my-wandb")) == {("/secrets/wandb", "not_found")}
    put(tenant, "my-wandb", "wandb")
    relayed = ask(request).json()
    assert relayed["warnings"] == [each for each in without["warnings"] if each != warning]
    assert relayed["relay"] == {
        "secret": "my-wandb", "status": "running", "step": None, "url": None, "error": None
    }  # fmt: skip
    assert ask(plain).json()["relay"] is None
    assert ask(plain, wandb="my-wandb").json()["relay"] == relayed["relay"]
    put(tenant, "other", "wandb")
    assert problems_of(ask(request)) == {("/secrets/wandb", "missing")}
    assert ask(request, wandb="other").json()["relay"]["secret"] == "other"

    with psycopg.connect(fleet.env["REVERIE_DATABASE_URL"]) as conn:
        failure = {"code": "a", "category": "user", "message": "b", "retryable": False}
        conn.execute(
            "UPDATE metric_relays SET status = 'failed', due_at = NULL, error = %s",
            (json.dumps(failure),),
        )
    shown = tenant.run(relayed["id"])["relay"]
    assert (shown["status"], shown["error"]) == ("failed", failure)
    put(tenant, "other", "wandb")
    assert tenant.run(relayed["id"])["relay"] == shown
    put(tenant, "my-wandb", "wandb")
    assert tenant.run(relayed["id"])["relay"]["status"] == "running"


def test_the_client(client: Client) -> None:
    assert client.put_secret("a", "hub", VALUES["hub"])["version"] == 1
    assert client.get_secret("a")["kind"] == "hub"
    assert [each["name"] for each in client.list_secrets().data] == ["a"]
    client.delete_secret("a")
    assert client.list_secrets().data == []


class CommandLine:
    """`reverie secrets` in this process, for one tenant."""

    def __init__(
        self,
        address: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._address, self._monkeypatch, self._capsys = address, monkeypatch, capsys

    def __call__(self, *args: str, given: str = "") -> str:
        """What the command prints, with ``given`` on its standard input."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        app(["secrets", *args], obj=Invocation(env=self._address), standalone_mode=False)
        return self._capsys.readouterr().out


@pytest.fixture
def address(fleet: Fleet, tenant: Tenant) -> dict[str, str]:
    return {"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key_of(tenant)}


def test_the_commands(
    address: dict[str, str],
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reverie = CommandLine(address, monkeypatch, capsys)
    hub = ("set", "my-hub", "--kind", "hub")

    assert "version" in reverie(*hub, given=VALUES["hub"] + "\n")
    monkeypatch.setenv("T", VALUES["hub"] + "2")
    reverie(*hub, "--from-env", "T")
    assert reverie("list").splitlines()[1].split()[:3] == ["my-hub", "hub", "2"]
    assert json.loads(reverie("list", "--json"))["data"] == client.list_secrets().data
    with pytest.raises(CommandError, match="the variable UNSET is empty"):
        reverie(*hub, "--from-env", "UNSET")
    with pytest.raises(CommandError, match="the standard input is empty"):
        reverie(*hub, given=" \n")
    with pytest.raises(ProblemError, match="a token of the Hugging Face Hub") as refused:
        reverie(*hub, given="canary")
    assert "canary" not in str(refused.value)
    reverie("delete", "my-hub")
    assert client.list_secrets().data == []


def rest_of(terminal: int) -> bytes:
    """What was written to a terminal whose other end is closed."""
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 10_000):
            shown += piece
    return shown


def test_a_terminal_does_not_show_the_value(address: dict[str, str], client: Client) -> None:
    own_end, its_end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "secrets", "set", "my-hub", "--kind", "hub"],
        env={**os.environ, **address},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)  # so that reading fails where the command ends early
    shown = b""
    while b"value of my-hub: " not in shown:
        shown += os.read(own_end, 1000)
    os.write(own_end, VALUES["hub"].encode() + b"\n")
    assert process.wait(timeout=30) == 0
    shown += rest_of(own_end)
    os.close(own_end)
    assert b"version" in shown
    assert b"anary" not in shown
    assert client.get_secret("my-hub")["version"] == 1


@pytest.mark.deep
def test_a_service_without_a_key_takes_no_secrets(fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false")
    fleet.start("api", REVERIE_SECRETS_PUBLIC_KEY="")
    fleet.wait_ready()
    answer = put(new_tenant(fleet, "ada"), "my-hub")
    assert (answer.status_code, answer.json()["code"]) == (501, "secrets_off")


@pytest.mark.parametrize("text", ["x25519-00", "x25519-private-ab", "x25519-public-ab"])
def test_a_wrong_key_is_refused_at_the_start_and_not_quoted(text: str) -> None:
    for name, check in {
        "REVERIE_SECRETS_PUBLIC_KEY": sealing_key,
        "REVERIE_SECRETS_PRIVATE_KEYS": check_private_keys,
    }.items():
        check(Settings.from_env({}))
        with pytest.raises(SettingsError, match=f"{name}: it ") as error:
            check(Settings.from_env({name: text}))
        assert text not in str(error.value)
