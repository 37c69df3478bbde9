"""What the role of the API's transactions sees and may do, table by table."""

from collections.abc import Iterator

import psycopg
import pytest

from services.domain.errors import NotFoundError
from services.store import (
    datasets,
    gpu_classes,
)
from services.store.database import Database
from services.store.migrate import migrate
from services.store.scoped_database import ROLE, ScopedDatabase
from tests.support.api_keys import KEY_PEPPER
from tests.support.postgres import PostgresServer
from tests.support.runs import TenantDatabase
from tests.support.tenant_rows import FILE, LIMIT, Rows


def test_a_connection_without_a_tenant_sees_no_row_of_any_tenant(
    rows: Rows, rows_database: Database, rows_url: str
) -> None:
    with rows_database.transaction() as conn:
        tables = conn.execute(
            "SELECT table_name, has_table_privilege(%s, table_name, 'SELECT')"
            " FROM information_schema.columns"
            " WHERE table_schema = 'public' AND column_name = 'tenant_id'",
            (ROLE,),
        ).fetchall()
        secured = conn.execute(
            "SELECT tablename FROM pg_policies JOIN pg_class ON relname = tablename"
            " WHERE relrowsecurity AND %s = ANY(roles)",
            (ROLE,),
        ).fetchall()
    assert {name for (name,) in secured} == {name for name, _ in tables}
    readable = [name for name, is_readable in tables if is_readable]
    assert len(readable) == 28
    with psycopg.connect(rows_url, options=f"-c role={ROLE}", autocommit=True) as conn:
        for name in readable:
            count = f"SELECT count(*) FROM {name}".encode()
            assert conn.execute(count).fetchone() == (0,), name
            with conn.transaction():
                conn.execute("SELECT set_config('reverie.tenant_id', %s, true)", (rows.ada,))
                assert conn.execute(count).fetchone() != (0,), name
            assert conn.execute(count).fetchone() == (0,), name


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs",
        "DELETE FROM datasets",
        "TRUNCATE events",
        "UPDATE tenants SET weight = 100",
        "UPDATE quotas SET uploads = 1000000",
        "UPDATE checkpoints SET step = 0",
        "SELECT key_sha256 FROM api_keys",
        "SELECT key_hmac FROM api_keys",
        "UPDATE api_keys SET scopes = NULL",
        "UPDATE api_keys SET key_hmac = 'mine'",
        "SELECT key_hmac FROM operator_keys",
        "SELECT key_hmac FROM worker_keys",
        "SELECT ciphertext FROM secrets",
        "UPDATE secrets SET name = 'a' RETURNING sealed_key",
        "INSERT INTO attempts SELECT * FROM attempts",
        "UPDATE audit_events SET action = 'x'",
        "DELETE FROM audit_events",
        "UPDATE deletions SET status = 'succeeded'",
        "UPDATE metric_relays SET secret = 'hers'",
        "CREATE TABLE mine (x integer)",
    ],
)
def test_requests_may_not(rows: Rows, scoped: ScopedDatabase, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), scoped.transaction(rows.ada) as conn:
        conn.execute(statement.encode())


def test_currencies_are_read_without_a_tenant(scoped: ScopedDatabase) -> None:
    with scoped.transaction("") as conn:
        assert gpu_classes.currencies(conn) == {}


@pytest.fixture
def owned_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database that belongs to a user without rights on the server."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute("CREATE ROLE plain LOGIN")
        conn.execute("CREATE DATABASE owned OWNER plain")
    url = postgres_server.url("owned")
    yield url.replace("postgres@", "plain@")
    postgres_server.drop_database(url)
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute("DROP ROLE plain")


def test_an_owner_who_may_not_create_roles_is_told_what_to_ask_for(
    owned_url: str, postgres_server: PostgresServer
) -> None:
    with pytest.raises(psycopg.Error, match="GRANT reverie_api TO plain"):
        migrate(owned_url, KEY_PEPPER)
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute("GRANT reverie_api TO plain")

    migrate(owned_url, KEY_PEPPER)

    scoped, owner = ScopedDatabase(owned_url, 1, statement_timeout=LIMIT), Database(owned_url, 1)
    tenant = TenantDatabase.new(owner)
    with scoped.transaction(tenant.tenant_id) as conn:
        made = datasets.create(conn, tenant.tenant_id, "photos", [FILE])
        assert datasets.get(conn, tenant.tenant_id, made.dataset_id) == made
    with scoped.transaction("ten_other") as conn, pytest.raises(NotFoundError):
        datasets.get(conn, tenant.tenant_id, made.dataset_id)
    with owner.transaction() as conn:  # as every other process
        assert datasets.get(conn, tenant.tenant_id, made.dataset_id) == made
    scoped.close()
    owner.close()
