"""`reverie admin` sets prices and weights."""

import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.store import gpu_classes
from services.store.database import Database
from tests.support.runs import LEASE, TenantDatabase


@pytest.fixture
def tenant_db(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> TenantDatabase:
    monkeypatch.setenv("REVERIE_DATABASE_URL", database_url)
    return TenantDatabase.new(database)


def admin(*arguments: str) -> None:
    app(["admin", *arguments], obj=Invocation(env={}), standalone_mode=False)


def test_a_price_counts_for_attempts_that_start_later(tenant_db: TenantDatabase) -> None:
    before = tenant_db.held()
    admin("gpu-class", "set", "cpu", "--price", "9")
    admin("gpu-class", "set", "cpu", "--price", "2.5", "--currency", "EUR")
    run_id = tenant_db.claimable().run_id
    after = tenant_db.ledger.claim(run_id, worker_id="w", lease=LEASE)
    assert after is not None
    with tenant_db.database.transaction() as conn:
        prices = dict(conn.execute("SELECT run_id, price_micros_per_hour FROM attempts").fetchall())
        assert gpu_classes.currencies(conn) == {"cpu": "EUR"}
    assert prices == {before.run_id: 0, run_id: 2_500_000}
    with pytest.raises(CommandError, match="--currency is euro"):
        admin("gpu-class", "set", "cpu", "--price", "1", "--currency", "euro")


def test_a_tenant_gets_a_weight(tenant_db: TenantDatabase) -> None:
    admin("tenant", "weight", "ada", "2.5")
    with tenant_db.database.transaction() as conn:
        assert conn.execute("SELECT weight FROM tenants").fetchall() == [(2.5,)]
    with pytest.raises(CommandError, match="there is no tenant bob"):
        admin("tenant", "weight", "bob", "1")
