"""`reverie keys`, `members`, `usage`, and the same for operators with `reverie admin`."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.client.errors import ProblemError
from services.domain.api_keys import kind_of
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_key


@pytest.fixture(scope="module")
def api_key(fleet: Fleet) -> str:
    return new_key(fleet.env["REVERIE_DATABASE_URL"], "ada")


Cli = Callable[..., Any]


@pytest.fixture
def cli(
    fleet: Fleet, api_key: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Cli:
    """Run a command as ada and return the JSON or the text that it prints."""
    for name in ("REVERIE_DATABASE_URL", "REVERIE_KEY_PEPPER"):
        monkeypatch.setenv(name, fleet.env[name])

    def run(*arguments: str, key: str = api_key) -> Any:
        capsys.readouterr()
        invocation = Invocation(env={"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key})
        app(list(arguments), obj=invocation, standalone_mode=False)
        text = capsys.readouterr().out
        return json.loads(text) if "--json" in arguments else text

    return run


def status_with(fleet: Fleet, secret: str, path: str = "/v1/runs") -> int:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.get(f"{fleet.url}{path}", headers=headers).status_code


def test_keys_of_a_tenant(cli: Cli, fleet: Fleet) -> None:
    scopes = ("--scope", "runs:read", "--scope", "keys:read")
    made = cli("keys", "create", "ci", *scopes, "--expires", "90d", "--json")
    assert made["scopes"] == ["keys:read", "runs:read"]
    assert status_with(fleet, made["secret"]) == 200
    rotated = cli("keys", "rotate", made["id"], "--grace", "0s")
    (secret,) = [word for word in rotated.split() if word.startswith("rv_")]
    assert status_with(fleet, secret) == 200
    shown = cli("keys", "list")
    assert made["id"] in shown
    assert "replaced by key_" in shown
    assert status_with(fleet, made["secret"]) == 401
    newest = cli("keys", "list", "--json")["data"][0]
    assert "revoked" in cli("keys", "revoke", newest["id"])
    assert status_with(fleet, secret) == 401
    assert newest["id"] not in [key["id"] for key in cli("keys", "list", "--json")["data"]]
    with pytest.raises(CommandError, match="--grace is later"):
        cli("keys", "rotate", made["id"], "--grace", "later")


def test_members_of_a_tenant(cli: Cli, fleet: Fleet) -> None:
    bob = cli("members", "create", "bob", "--role", "viewer", "--json")
    secret = cli("keys", "create", "laptop", "--member", bob["id"], "--json")["secret"]
    with pytest.raises(ProblemError, match="the role viewer does not have"):
        cli("members", "create", "eve", key=secret)
    assert cli("members", "change", bob["id"], "--role", "owner", "--json")["role"] == "owner"
    cli("members", "create", "lin", key=secret)
    listed = cli("members", "list")
    assert all(name in listed for name in ("ada", "bob", "lin"))
    cli("members", "remove", bob["id"])
    assert bob["id"] not in cli("members", "list")
    assert status_with(fleet, secret) == 401
    with pytest.raises(CommandError, match="nothing is to change"):
        cli("members", "change", bob["id"])


def test_a_stored_name_does_not_command_an_operators_terminal(cli: Cli, fleet: Fleet) -> None:
    hostile = "\x1b]0;pwned\x07\x1b[31mRED\r\nowner  fake"  # names of before may be such
    eve = cli("members", "create", "eve", "--role", "viewer", "--json")["id"]
    with database_of(fleet) as database, database.transaction() as conn:
        conn.execute("UPDATE members SET name = %s WHERE member_id = %s", (hostile, eve))
    for arguments in (("admin", "list-members", "ada"), ("members", "list")):
        (line,) = [line for line in cli(*arguments).splitlines() if eve in line]
        assert r"\x1b]0;pwned\x07\x1b[31mRED\r\nowner  fake" in line
    assert cli("members", "list", "--json")["data"][0]["name"] == hostile
    cli("members", "remove", eve)


def test_usage_and_quotas(cli: Cli, fleet: Fleet) -> None:
    with database_of(fleet) as database, database.transaction() as conn:
        conn.execute("INSERT INTO gpu_classes VALUES ('h200', 3500000)")
        conn.execute(
            "INSERT INTO monthly_usage SELECT tenant_id, '2026-11-01', 'h200', 7200, 7000000"
            " FROM tenants WHERE name = 'ada'"
        )
    text = cli("usage")
    assert "2026-11" in text
    assert "7.00 USD" in text
    assert "queued_runs" in text
    found = cli("usage", "--json")
    assert found["months"][0]["gpu_classes"][0]["charged_s"] == 7200
    assert {quota["id"] for quota in found["quotas"]} >= {"gpu_hours", "storage_bytes"}


def test_an_operator_makes_and_revokes_keys(cli: Cli, fleet: Fleet) -> None:
    assert "ten_" in cli("admin", "tenant", "create", "grace")
    made = cli("admin", "create-key", "grace", "--scopes", "runs:read", "--expires", "1h", "--json")
    assert status_with(fleet, made["secret"]) == 200
    assert status_with(fleet, made["secret"], "/v1/datasets") == 403
    (member,) = cli("admin", "list-members", "grace", "--json")
    assert (member["id"], member["role"]) == (made["member"], "owner")
    assert member["id"] in cli("admin", "list-members", "grace")
    other = cli("admin", "create-key", "grace", "--member", member["id"], "--json")
    listed = cli("admin", "list-keys", "grace", "--json")
    assert {key["id"]: key["scopes"] for key in listed} == {
        made["key"]: ["runs:read"],
        other["key"]: None,
    }
    assert listed[1]["last_used_at"] is not None
    cli("admin", "revoke-key", made["key"])
    assert status_with(fleet, made["secret"]) == 401
    assert made["key"] not in cli("admin", "list-keys", "grace")

    own = cli("admin", "create-operator-key", "lin", "--json")
    assert kind_of(own["secret"]) == "rvo_"
    assert status_with(fleet, own["secret"], "/v1/admin/tenants") == 200
    assert own["key"] in cli("admin", "list-keys")
    cli("admin", "revoke-key", own["key"])
    assert status_with(fleet, own["secret"], "/v1/admin/tenants") == 401
    assert own["key"] not in cli("admin", "list-keys")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create-key", "ada", "--scopes", "runs:all"), "--scopes names runs:all"),
        (("create-key", "ada", "--expires", "soon"), "--expires is soon"),
        (("create-key", "ada", "--expires", "2020-01-01T00:00:00Z"), "is in the past"),
        (("create-key", "ada", "--member", "mem_1"), "no member mem_1"),
        (("create-key", "nobody"), "there is no tenant nobody"),
        (("revoke-key", "key_1"), "no operator key key_1"),
    ],
)
def test_a_wrong_request_of_an_operator_is_explained(
    cli: Cli, arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        cli("admin", *arguments)
