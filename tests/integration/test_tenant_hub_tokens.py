"""Publishing to the Hub with a tenant's own token, which is opened for one publication only."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from services.domain.ids import new_id
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
from services.results.publish import Publisher
from services.results.targets.hub import HubAccess, HubTarget
from services.secrets.keys import new_private_key, parse_public, public_text
from services.secrets.opening import PrivateKeys, open_secret
from services.secrets.sealing import seal
from services.store import publications, sealed_secrets, secrets
from services.store.database import Database
from services.store.publications import Publication
from services.store.secrets import Secret
from services.workers.scratch import Scratch
from tests.support.finished_runs import commit_whole_result
from tests.support.hub import HubServer
from tests.support.runs import TenantDatabase

PRIVATE = new_private_key()
PUBLIC = parse_public(public_text(PRIVATE))
TOKEN = "hf_CanaryOfAda0123456789"


@dataclass(frozen=True, kw_only=True)
class Publishing:
    tenant_db: TenantDatabase
    run_id: str
    publisher: Publisher

    def store(self, name: str = "my-hub", token: str = TOKEN, *, kind: str = "hub") -> Secret:
        with self.tenant_db.database.transaction() as conn:
            row, _ = secrets.put(
                conn,
                self.tenant_db.tenant_id,
                name,
                kind,
                lambda place: seal(SecretStr(token), place, PUBLIC),
            )
        return row

    def secret(self, name: str = "my-hub") -> Secret:
        with self.tenant_db.database.transaction() as conn:
            return secrets.get(conn, self.tenant_db.tenant_id, name)

    def publish(self, secret: str | None = "my-hub") -> Publication:
        target = {"kind": "hub", "repo_id": "tester/moon", "private": True, "secret": secret}
        database, tenant_id = self.tenant_db.database, self.tenant_db.tenant_id
        with database.transaction() as conn:
            asked = publications.create(conn, tenant_id, self.run_id, target)
        return self.ring(asked.publication_id)

    def ring(self, publication_id: str) -> Publication:
        database, tenant_id = self.tenant_db.database, self.tenant_db.tenant_id
        self.publisher.answer_ring(tenant_id, publication_id)
        with database.transaction() as conn:
            return publications.get(conn, tenant_id, publication_id)


@pytest.fixture
def publishing(
    database: Database, tmp_path: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Publishing]:
    """A run that succeeded, and a results process's publisher; ``TOKEN`` writes to the Hub."""
    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", PRIVATE)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    hub_server.roles[TOKEN] = "fineGrained"
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    objects = FolderStore(tmp_path / "objects", signer)
    tenant_db = TenantDatabase.new(database)
    run_id = commit_whole_result(tenant_db, objects, tmp_path / "result")
    with Scratch(tmp_path / "scratch", new_id("wrk")) as scratch:
        publisher = Publisher(
            database=database,
            objects=objects,
            targets={"hub": HubTarget(HubAccess(token=hub_server.token, endpoint=hub_server.url))},
            scratch=scratch,
            lease=timedelta(seconds=60),
        )
        yield Publishing(tenant_db=tenant_db, run_id=run_id, publisher=publisher)


def code_of(row: Publication) -> str | None:
    return None if row.error is None else str(row.error["code"])


def test_the_tenants_token_publishes(
    publishing: Publishing, hub_server: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    hub_server.token = "hf_of_the_operator"  # refused: only the tenant's is left
    hub_server.roles[TOKEN] = "write"
    publishing.store()

    row = publishing.publish()

    assert (row.status, row.error) == ("succeeded", None)
    assert row.location == f"{hub_server.url}/tester/moon"
    assert "README.md" in hub_server.repos["tester/moon"].files
    used = publishing.secret()
    assert used.last_used_at is not None
    assert "may write to every repository" in (used.warning or "")
    said = capfd.readouterr()
    assert "publication_succeeded" in said.out + said.err
    assert TOKEN not in said.out + said.err + json.dumps(row.target)

    hub_server.roles[TOKEN] = "fineGrained"
    replaced = publishing.store()
    assert (replaced.warning, replaced.last_used_at, replaced.version) == (None, None, 2)
    assert publishing.publish().status == "succeeded"
    assert publishing.secret().warning is None


def test_without_a_secret_the_services_own_token_publishes(
    publishing: Publishing, hub_server: HubServer
) -> None:
    hub_server.roles.clear()
    assert publishing.publish(secret=None).status == "succeeded"


def test_a_revoked_token_fails_the_publication_and_names_the_secret(
    publishing: Publishing, hub_server: HubServer
) -> None:
    hub_server.roles.clear()
    publishing.store()

    row = publishing.publish()

    assert (row.status, code_of(row)) == ("failed", "hub_token_refused")
    assert row.error is not None
    assert row.error["category"] == "user"
    assert "the token of the secret my-hub" in row.error["message"]
    assert publishing.tenant_db.run(publishing.run_id).status == "succeeded"
    assert publishing.secret().last_used_at is not None


def test_a_publication_that_waits_for_the_hub_uses_the_value_of_then(
    publishing: Publishing, hub_server: HubServer
) -> None:
    hub_server.failing_with = 503
    publishing.store(token="hf_WrongCanary0123456789")
    row = publishing.publish()
    assert (row.status, code_of(row)) == ("pending", "hub_down")

    hub_server.failing_with = None
    publishing.store()
    assert publishing.ring(row.publication_id).status == "succeeded"


@pytest.mark.parametrize("what", ["deleted", "of another kind", "of another tenant"])
def test_a_secret_that_is_not_there_fails_the_publication(
    publishing: Publishing, hub_server: HubServer, what: str
) -> None:
    if what == "of another kind":
        publishing.store(kind="wandb")
    elif what == "of another tenant":
        with publishing.tenant_db.database.transaction() as conn:
            other = publishing.tenant_db.neighbour().tenant_id
            secrets.put(conn, other, "my-hub", "hub", lambda p: seal(SecretStr(TOKEN), p, PUBLIC))

    row = publishing.publish()

    assert (row.status, code_of(row)) == ("failed", "secret_missing")
    assert hub_server.requests == []


def test_a_secret_that_cannot_be_opened_fails_the_publication(
    publishing: Publishing,
    hub_server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
) -> None:
    publishing.store()
    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", new_private_key())
    row = publishing.publish()
    assert (row.status, code_of(row)) == (
        "pending",
        "secret_unreadable",
    )

    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", f"{new_private_key()},{PRIVATE}")
    with psycopg.connect(database_url) as conn:
        conn.execute("UPDATE secrets SET version = version + 1")
    row = publishing.ring(row.publication_id)

    assert (row.status, code_of(row)) == ("failed", "secret_unreadable")
    assert row.error is not None
    assert row.error["category"] == "platform"
    assert hub_server.requests == []


def test_rotation_seals_for_the_newest_key(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    from services.cli.connection import Invocation
    from services.cli.program import app

    def rotate(keys: str) -> None:
        monkeypatch.setenv("REVERIE_DATABASE_URL", database_url)
        monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", keys)
        app(["admin", "rotate-secrets"], obj=Invocation(env={}), standalone_mode=False)

    for number in range(3):
        publishing.store(f"hub-{number}", f"{TOKEN}{number}")
    fresh = new_private_key()
    rotate(f"{fresh},{PRIVATE}")
    rotate(fresh)  # nothing is left to do, so the old key is not missed

    keys = PrivateKeys.parse(fresh)
    with publishing.tenant_db.database.transaction() as conn:
        for number in range(3):
            tenant_id = publishing.tenant_db.tenant_id
            sealed = sealed_secrets.get(conn, tenant_id, f"hub-{number}", "hub")
            assert sealed is not None
            assert sealed.key_id == keys.newest.key_id
            value = open_secret(sealed.envelope, sealed.place, keys).get_secret_value()
            assert value == f"{TOKEN}{number}"


def test_rotation_without_the_old_key_says_so_and_changes_nothing(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    from click.exceptions import Exit

    from services.cli.connection import Invocation
    from services.cli.program import app

    publishing.store()
    monkeypatch.setenv("REVERIE_DATABASE_URL", database_url)
    monkeypatch.setenv("REVERIE_SECRETS_PRIVATE_KEYS", new_private_key())
    try:
        status = app(["admin", "rotate-secrets"], obj=Invocation(env={}), standalone_mode=False)
    except Exit as ended:
        status = ended.exit_code

    assert status == 1
    with publishing.tenant_db.database.transaction() as conn:
        sealed = sealed_secrets.get(conn, publishing.tenant_db.tenant_id, "my-hub", "hub")
    assert sealed is not None
    assert sealed.key_id == PUBLIC.key_id


def test_a_value_that_was_replaced_meanwhile_is_not_sealed_again(publishing: Publishing) -> None:
    publishing.store()
    with publishing.tenant_db.database.transaction() as conn:
        old = sealed_secrets.get(conn, publishing.tenant_db.tenant_id, "my-hub", "hub")
    assert old is not None
    publishing.store(token="hf_AnotherCanary0123456789")
    with publishing.tenant_db.database.transaction() as conn:
        assert not sealed_secrets.reseal(conn, old, old.envelope)
        assert sealed_secrets.of_other_keys(conn, PUBLIC.key_id, after="", limit=10) == []
        assert len(sealed_secrets.of_other_keys(conn, "other", after="", limit=10)) == 1
