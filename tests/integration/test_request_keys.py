"""What every request does with its key: one indexed read, with its member's role, and its use."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from services.domain.access import SCOPES_OF, Actor
from services.domain.errors import NotFoundError
from services.domain.quotas import Quotas
from services.domain.request_rates import RatePolicy
from services.store import (
    api_keys,
    deletions,
    members,
    operator_keys,
    quotas,
    request_rates,
    tenants,
)
from services.store.database import Connection, Database
from tests.support.api_keys import KEY_PEPPER, digest, new_api_key

SOON = timedelta(hours=1)


@pytest.fixture
def tenant_id(database: Database) -> str:
    with database.transaction() as conn:
        return tenants.create_tenant(conn, "ada")


def actor_of(conn: Connection, secret: str) -> Actor | None:
    found = request_rates.take(conn, digest(secret), RatePolicy.OTHER, Quotas())
    return None if found is None else found[0]


def used_at(conn: Connection, table: str = "api_keys") -> Any:
    row = conn.execute(f"SELECT last_used_at FROM {table}".encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_key_does_what_its_member_may_now(database: Database, tenant_id: str) -> None:
    with database.transaction() as conn:
        bob = members.create(conn, tenant_id, name="bob", role="member")
        unlimited = new_api_key(conn, tenant_id, member_id=bob.member_id)
        listed = ["runs:write", "runs:read", "members:write"]
        narrow = new_api_key(conn, tenant_id, member_id=bob.member_id, scopes=listed)

    def scopes() -> list[frozenset[str] | None]:
        with database.autocommit() as conn:
            actors = [actor_of(conn, secret) for secret in (unlimited, narrow)]
        return [None if actor is None else actor.scopes for actor in actors]

    assert scopes() == [SCOPES_OF["member"], {"runs:read", "runs:write"}]
    for role, of_narrow in (
        ("viewer", {"runs:read"}),
        ("billing", {"runs:read"}),
        ("owner", set(listed)),
    ):
        with database.transaction() as conn:
            members.change(conn, tenant_id, bob.member_id, {"role": role})
        assert scopes() == [SCOPES_OF[role], of_narrow]
    with database.transaction() as conn:
        members.remove(conn, tenant_id, bob.member_id)
    assert scopes() == [None, None]


def test_a_removed_member_has_no_keys_even_where_one_was_missed(
    database: Database, tenant_id: str
) -> None:
    with database.transaction() as conn:
        bob = members.create(conn, tenant_id, name="bob", role="member")
        secret = new_api_key(conn, tenant_id, member_id=bob.member_id)
        members.remove(conn, tenant_id, bob.member_id)
        conn.execute("UPDATE api_keys SET revoked_at = NULL")
    with database.autocommit() as conn:
        assert actor_of(conn, secret) is None


def test_a_tenant_that_is_being_deleted_gets_no_key_and_no_run(
    database: Database, tenant_id: str
) -> None:
    with database.transaction() as conn:
        old, secret = api_keys.create(conn, tenant_id, KEY_PEPPER, name="old")

    def create() -> None:
        with database.transaction() as conn:
            api_keys.create(conn, tenant_id, KEY_PEPPER, name="late")

    def rotate() -> None:
        with database.transaction() as conn:
            api_keys.rotate(conn, tenant_id, KEY_PEPPER, old, grace=timedelta(hours=1))

    def submit() -> None:
        with database.transaction() as conn:
            quotas.check_new_runs(conn, tenant_id, Quotas())

    with ThreadPoolExecutor(3) as pool:
        with database.transaction() as conn:
            deletions.delete_tenant(conn, tenant_id, name="ada")
            late = [pool.submit(each) for each in (create, rotate, submit)]
        assert [type(each.exception(30)) for each in late] == [NotFoundError] * 3
    with database.autocommit() as conn:
        assert actor_of(conn, secret) is None
        kept = conn.execute("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL").fetchone()
        assert kept == (0,)


def test_a_key_of_a_version_without_members_counts_as_an_owners(
    database: Database, tenant_id: str
) -> None:
    with database.autocommit() as conn:
        secret = new_api_key(conn, tenant_id)
        conn.execute("UPDATE api_keys SET member_id = NULL")
        actor = actor_of(conn, secret)
    assert actor is not None
    assert (actor.member_id, actor.role, actor.scopes) == (None, "owner", SCOPES_OF["owner"])


def test_a_key_stops_when_it_expires(database: Database, tenant_id: str) -> None:
    with database.autocommit() as conn:
        secret = new_api_key(conn, tenant_id, expires_at=datetime.now(UTC) + SOON)
        assert actor_of(conn, secret) is not None
        conn.execute("UPDATE api_keys SET expires_at = clock_timestamp()")
        assert actor_of(conn, secret) is None
        assert api_keys.tenant_of(conn, digest(secret)) is None


def test_its_use_is_noted_once_a_minute(database: Database, tenant_id: str) -> None:
    with database.autocommit() as conn:
        secret = new_api_key(conn, tenant_id)
        assert used_at(conn) is None
        actor_of(conn, secret)
        first = used_at(conn)
        assert first is not None
        actor_of(conn, secret)
        assert used_at(conn) == first
        conn.execute("UPDATE api_keys SET last_used_at = last_used_at - interval '61 s'")
        actor_of(conn, secret)
        assert used_at(conn) >= first


def test_a_request_does_not_wait_for_who_holds_its_keys_row(
    database: Database, database_url: str, tenant_id: str
) -> None:
    with database.transaction() as conn:
        secret = new_api_key(conn, tenant_id)
    with psycopg.connect(database_url) as holder, database.autocommit() as conn:
        holder.execute("SELECT FROM api_keys FOR NO KEY UPDATE")
        conn.execute("SET lock_timeout = '100ms'")
        assert actor_of(conn, secret) is not None
        assert used_at(conn) is None
        conn.execute("RESET lock_timeout")


def test_ten_thousand_keys_cost_one_indexed_read(database: Database, tenant_id: str) -> None:
    with database.autocommit() as conn:
        conn.execute(
            "INSERT INTO api_keys (key_id, tenant_id, key_hmac, name)"
            " SELECT 'key_' || n, %s, md5(n::text), 'one of many' FROM generate_series(1, 10000) n",
            (tenant_id,),
        )
        secret = new_api_key(conn, tenant_id)
        conn.execute("ANALYZE api_keys")
        facts = {
            "key_hmac": digest(secret),
            "policy": "other",
            "share": 5,
            "requests_per_minute": 6000,
        }
        explain = b"EXPLAIN " + request_rates._TAKE_OF_TENANT.as_string(conn).encode()
        plan = "\n".join(row[0] for row in conn.execute(explain, facts))
        assert actor_of(conn, secret) is not None
    assert "Index Scan using api_keys_key_hmac_key on api_keys" in plan, plan
    assert "Seq Scan on api_keys" not in plan, plan


def test_a_dump_of_the_database_authenticates_nobody(
    database: Database, database_url: str, tenant_id: str
) -> None:
    with database.transaction() as conn:
        secrets = [new_api_key(conn, tenant_id)]
        secrets.append(operator_keys.create(conn, KEY_PEPPER, name="ada")[1])
    dump = subprocess.run(
        ["pg_dump", "--data-only", database_url], check=True, capture_output=True, text=True
    ).stdout
    assert digest(secrets[0]) in dump, "the row is there"
    for secret in secrets:
        assert secret not in dump
        assert secret[4:-6] not in dump
    # What the dump holds is no key, and with another pepper no key of one's own is valid.
    with database.autocommit() as conn:
        words = {word for line in dump.splitlines() for word in line.split("\t")}
        assert not [word for word in words if actor_of(conn, word)]
        forged = "rv_" + "a" * 43
        conn.execute(
            "UPDATE api_keys SET key_hmac = %s", (api_keys.digest(b"a guess" * 4, forged),)
        )
        assert actor_of(conn, forged) is None


def test_an_operators_key_is_found_by_its_own_index_and_its_use_is_noted(
    database: Database,
) -> None:
    with database.autocommit() as conn:
        key, secret = operator_keys.create(conn, KEY_PEPPER, name="ada")
        found = request_rates.take_as_operator(conn, digest(secret), RatePolicy.OTHER, Quotas())
        assert found is not None
        assert (found[0].key_id, found[0].name) == (key.key_id, "ada")
        assert used_at(conn, "operator_keys") is not None
        assert actor_of(conn, secret) is None, "it is no key of a tenant"
        operator_keys.revoke(conn, key.key_id)
        again = request_rates.take_as_operator(conn, digest(secret), RatePolicy.OTHER, Quotas())
        assert again is None
