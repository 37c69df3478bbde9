"""Metrics of running processes, as Prometheus reads them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from services.domain.ledger import Outcome
from services.domain.quotas import Quotas
from services.metrics.queue import FailedRuns, OpenRuns, PendingRows, QueueFigures, Workers
from services.store import datasets, imports, queue_figures
from services.store.imports import Portion
from tests.support.fleet import Fleet
from tests.support.ports import free_port
from tests.support.runs import TenantDatabase, failure
from tests.support.scraping import scrape, value_of
from tests.support.service import new_tenant
from tests.support.waiting import wait_until

SILENCE = timedelta(seconds=30)
NOTHING = Portion(files=[], facts=[], left_out=[], position={}, rows_done=0, rows_total=None)


def figures(tenant_db: TenantDatabase) -> QueueFigures:
    with tenant_db.database.transaction() as conn:
        return queue_figures.read(conn, silence=SILENCE)


def test_open_runs_are_counted_by_class_and_state(tenant_db: TenantDatabase) -> None:
    ended = tenant_db.held()
    tenant_db.ledger.hand_back(ended.run_id, ended.fence, Outcome.FAILED, failure(retryable=False))
    tenant_db.held()
    waiting = tenant_db.claimable(gpu_class="h200")
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE tenants SET weight = 2")
        conn.execute(
            "UPDATE runs SET queued_at = clock_timestamp() - interval '90 s' WHERE run_id = %s",
            (waiting.run_id,),
        )

    found = figures(tenant_db)
    rows = {(row.gpu_class, row.status, row.stage): row for row in found.runs}

    assert rows.keys() == {
        ("cpu", "running", "provisioning"),
        ("h200", "queued", "capacity"),
    }
    assert rows["h200", "queued", "capacity"] == OpenRuns(
        gpu_class="h200",
        tenant_class="above",
        status="queued",
        stage="capacity",
        runs=1,
        oldest_s=pytest.approx(90, abs=20),
    )


def test_failed_runs_are_counted_by_code(tenant_db: TenantDatabase) -> None:
    for _ in range(2):
        claim = tenant_db.held()
        tenant_db.ledger.hand_back(
            claim.run_id, claim.fence, Outcome.FAILED, failure(retryable=False, code="bad_data")
        )

    assert figures(tenant_db).failed == [FailedRuns(category="user", code="bad_data", runs=2)]


def test_workers_are_counted_by_state_and_reason(tenant_db: TenantDatabase) -> None:
    tenant_db.held()
    tenant_db.worker()
    drained, silent = tenant_db.worker(draining=True), tenant_db.worker()
    with tenant_db.database.transaction() as conn:
        conn.execute(
            """UPDATE workers SET drain_reason = '{"code": "disk_full"}' WHERE worker_id = %s""",
            (drained,),
        )
        conn.execute(
            "UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 minute'"
            " WHERE worker_id = %s",
            (silent,),
        )

    found = {(row.state, row.reason): row for row in figures(tenant_db).workers}

    assert found["draining", "disk_full"] == Workers(
        kind="trainer", gpu_class="cpu", state="draining", reason="disk_full", workers=1
    )
    assert {key: row.workers for key, row in found.items()} == {
        ("busy", ""): 1,
        ("free", ""): 1,
        ("draining", "disk_full"): 1,
        ("silent", ""): 1,
    }


def test_rows_that_wait_for_a_worker_are_counted_by_kind(tenant_db: TenantDatabase) -> None:
    tenant_db.caching()

    pending = {row.kind: row for row in figures(tenant_db).pending}

    assert {kind: row.rows for kind, row in pending.items()} == {
        "dataset": 0,
        "shard": 1,
        "publication": 0,
        "import": 0,
    }
    assert pending["dataset"] == PendingRows(kind="dataset", rows=0, oldest_s=0)


def test_an_import_waits_from_its_last_portion_on(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        dataset = datasets.create(conn, tenant_db.tenant_id, "photos", [])
        imports.create(conn, tenant_db.tenant_id, dataset.dataset_id, {}, None)
        conn.execute("UPDATE datasets SET updated_at = clock_timestamp() - interval '90 s'")
    pending = {row.kind: row for row in figures(tenant_db).pending}
    assert pending["import"].rows == 1
    assert pending["import"].oldest_s == pytest.approx(90, abs=20)
    with tenant_db.database.transaction() as conn:
        work = imports.take(conn, tenant_db.tenant_id, dataset.dataset_id)
        assert work is not None
        assert imports.declare(conn, work, NOTHING, Quotas())
    pending = {row.kind: row for row in figures(tenant_db).pending}
    assert pending["import"].oldest_s == pytest.approx(0, abs=20)


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet]) -> Iterator[Fleet]:
    fleet = fleet_of(REVERIE_LOG_FORMAT="json")
    yield fleet
    fleet.stop()


def test_api_and_dispatcher_serve_their_metrics_on_ports_of_their_own(fleet: Fleet) -> None:
    api, dispatcher = free_port(), free_port()
    fleet.start("api", REVERIE_METRICS_PORT=str(api))
    fleet.start("dispatcher", REVERIE_METRICS_PORT=str(dispatcher))
    fleet.wait_ready()
    tenant = new_tenant(fleet, "ada")
    tenant.get("/v1/runs")
    assert tenant.http.get("/v1/runs/run_none").status_code == 404
    assert tenant.http.get("/metrics").status_code == 404  # not for tenants

    seen = scrape(api)
    listed = (("method", "GET"), ("route", "/v1/runs"), ("status", "200"))
    assert seen["reverie_http_request_seconds_count"][listed] == 1
    assert seen["reverie_http_problems_total"][("code", "not_found"),] == 2
    wait_until(
        lambda: value_of(dispatcher, "reverie_dispatcher_rounds_total", outcome="ok"),
        what="a round",
    )
    rounds = scrape(dispatcher)
    steps = {dict(labels)["step"] for labels in rounds["reverie_dispatcher_step_seconds_count"]}
    assert {"sweep", "ring_for_admission", "offer_runs"} <= steps
    wait_until(
        lambda: value_of(dispatcher, "reverie_pending_rows", kind="shard") == 0, what="the figures"
    )


def test_a_port_that_is_taken_is_named(fleet: Fleet) -> None:
    taken = free_port()
    fleet.start("dispatcher", REVERIE_METRICS_PORT=str(taken))
    wait_until(lambda: value_of(taken, "process_start_time_seconds"), what="the first dispatcher")

    second = subprocess.run(
        [sys.executable, "-m", "services.api", "--port", str(free_port())],
        env={**os.environ, **fleet.env, "REVERIE_METRICS_PORT": str(taken)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 2
    assert "REVERIE_METRICS_PORT" in second.stderr
