"""Idempotency keys: the answer of a request is stored, and given again."""

import pytest

from services.domain.errors import IdempotencyInFlightError, IdempotencyMismatchError, NotFoundError
from services.store import idempotency, tenants
from tests.support.runs import TenantDatabase


def key_scope(tenant_id: str) -> idempotency.KeyScope:
    return idempotency.KeyScope(tenant_id=tenant_id, method="POST", path="/v1/runs", key="key-1")


def test_idempotency_keys(tenant_db: TenantDatabase) -> None:
    scope = key_scope(tenant_db.tenant_id)
    with tenant_db.database.transaction() as conn:
        assert idempotency.begin(conn, scope, "f1") is None
        with pytest.raises(IdempotencyInFlightError), tenant_db.database.transaction() as second:
            idempotency.begin(second, scope, "f1")
        idempotency.finish(conn, scope, status=201, body={"id": "run_x"})
    with tenant_db.database.transaction() as conn:
        replay = idempotency.begin(conn, scope, "f1")
        assert replay == idempotency.Replay(status=201, body={"id": "run_x"})
        with pytest.raises(IdempotencyMismatchError):
            idempotency.begin(conn, scope, "f2")
        other = tenants.create_tenant(conn, "eve")
        assert idempotency.begin(conn, key_scope(other), "f2") is None


def test_a_stored_answer_is_found_without_a_lock_for_a_week(
    tenant_db: TenantDatabase,
) -> None:
    scope = key_scope(tenant_db.tenant_id)
    with tenant_db.database.transaction() as conn:
        assert idempotency.begin(conn, scope, "f1") is None
        with tenant_db.database.transaction() as second:
            second.execute("SET LOCAL lock_timeout = '100ms'")
            assert idempotency.find(second, scope, "f1") is None  # it does not wait for the first
        idempotency.finish(conn, scope, status=201, body={"id": "run_x"})
    with tenant_db.database.transaction() as conn:
        found = idempotency.find(conn, scope, "f1")
        assert found == idempotency.Replay(status=201, body={"id": "run_x"})
        with pytest.raises(IdempotencyMismatchError):
            idempotency.find(conn, scope, "f2")
        conn.execute("UPDATE idempotency_keys SET created_at = now() - interval '8 days'")
        assert idempotency.find(conn, scope, "f2") is None
        assert idempotency.begin(conn, scope, "f2") is None


def test_a_failed_request_stores_no_idempotency_key(tenant_db: TenantDatabase) -> None:
    scope = key_scope(tenant_db.tenant_id)

    def refused_request() -> None:
        with tenant_db.database.transaction() as conn:
            assert idempotency.begin(conn, scope, "f1") is None
            raise NotFoundError("dataset", "ds_x")

    with pytest.raises(NotFoundError):
        refused_request()

    with tenant_db.database.transaction() as conn:
        assert idempotency.begin(conn, scope, "f1") is None
