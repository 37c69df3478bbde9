"""F43: replaced checkpoints are deleted while a worker downloads one to resume from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.results.sweep import sweep_runs
from services.settings.env import Settings
from services.store import leases
from services.store.database import Database
from tests.integration.trainer_supervisor_host import (
    TrainerHost,
    claimable_again,
    open_host,
    wait_until,
)
from tests.support.proxy import FaultProxy
from tests.support.rgw import Bucket

pytestmark = pytest.mark.deep

PATIENT = {"REVERIE_LEASE_S": "60", "REVERIE_RENEW_S": "20"}
"""Settings of a holder that is not told at once that its lease is lost."""


@pytest.fixture
def slow_url(rgw_bucket: Bucket, rgw_proxy: FaultProxy) -> str:
    """The same bucket through the proxy."""
    return rgw_bucket.at(rgw_proxy.port).url


@pytest.fixture
def host(tmp_path: Path, database_url: str, rgw_bucket: Bucket) -> Iterator[TrainerHost]:
    """Its run keeps one checkpoint: the one of step 4."""
    with open_host(tmp_path, database_url, rgw_bucket.url) as host:
        host.do(
            "UPDATE run_documents SET"
            " plan = jsonb_set(plan, '{operation,checkpoints_total_limit}', '1')"
        )
        assert host.end_of(host.start("die")) == 0
        assert host.run()["checkpoint_step"] == 4, host.logs()
        claimable_again(host)
        yield host


def sweep(host: TrainerHost, database: Database) -> list[str]:
    """Delete what no row names; the manifests that are left."""
    store = open_store(Settings.from_env(host.env))
    host.do("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 s'")
    assert sweep_runs(database, store) > 0
    return manifests(host, store)


def manifests(host: TrainerHost, store: ObjectStore) -> list[str]:
    prefix = f"tenants/{host.tenant_id}/runs/{host.run_id}/"
    keys = [key for key in store.list_keys(prefix) if key.endswith("/manifest.json")]
    return [key.removeprefix(f"{prefix}attempts/").removesuffix("/manifest.json") for key in keys]


def test_the_checkpoint_that_is_read_is_kept(
    host: TrainerHost, database: Database, rgw_proxy: FaultProxy, slow_url: str
) -> None:
    rgw_proxy.set("hang")
    reader = host.start("finish", REVERIE_OBJECTS_URL=slow_url)
    wait_until(lambda: rgw_proxy.hits["hang"], what="the download to begin")

    assert sweep(host, database) == ["1/checkpoints/step-00000004"]

    rgw_proxy.set("ok")
    assert host.end_of(reader) == 0
    assert host.run()["status"] == "succeeded", host.logs()
    assert [row[:2] for row in host.attempts()] == [("failed", 0), ("finished", 4)]
    assert host.events("warning") == []


def test_a_former_holder_whose_checkpoint_is_deleted_stops(
    host: TrainerHost, database: Database, rgw_proxy: FaultProxy, slow_url: str
) -> None:
    rgw_proxy.set("hang")
    reader = host.start("finish", REVERIE_OBJECTS_URL=slow_url, **PATIENT)
    wait_until(lambda: rgw_proxy.hits["hang"], what="the download to begin")
    host.do("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'")
    with database.transaction() as conn:
        assert leases.close_dead(conn, host.run_id, max_attempts=9) is not None
    claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()
    assert sweep(host, database) == ["3/checkpoints/step-00000010", "3/result"]

    rgw_proxy.set("ok")

    assert host.end_of(reader) == 0
    assert "given_up" in host.logs()
    assert [row[:2] for row in host.attempts()] == [("failed", 0), ("lost", 4), ("finished", 4)]
    assert host.events("warning") == []
    assert host.run()["fence"] == 3
