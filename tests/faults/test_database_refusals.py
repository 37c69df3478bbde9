"""F20: PostgreSQL takes no connection, or aborts a transaction for another one's sake.

Processes repeat the transaction. A client is told to come back, with 503.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from tests.faults.proxied import ProxiedService, ServiceOn
from tests.support.service import small_run_request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

TRAINER = "trainer-1"
RETRIED = ("call_retried", "renewal_failed")
WAITING = """
SELECT true FROM pg_stat_activity
WHERE application_name = %(name)s AND wait_event_type = 'Lock' LIMIT 1
"""
END_CONNECTIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %(user)s
"""


@pytest.fixture(scope="module")
def service(service_on: ServiceOn) -> Iterator[ProxiedService]:
    with service_on(None) as service:
        service.start(TRAINER)
        yield service


@contextmanager
def setting(service: ProxiedService, change: str, back: str) -> Iterator[None]:
    """Change the role that all processes connect as, for this block and for new connections."""
    service.do(f"ALTER ROLE {service.user} {change}")
    service.ask(END_CONNECTIONS, user=service.user)
    try:
        yield
    finally:
        service.do(f"ALTER ROLE {service.user} {back}")
        service.ask(END_CONNECTIONS, user=service.user)


@contextmanager
def other_session(service: ProxiedService) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is rolled back at the end, and that is never the victim of a deadlock."""
    with psycopg.connect(service.database_url) as conn:
        conn.execute("SET deadlock_timeout = '1h'")
        yield conn
        conn.rollback()


@contextmanager
def changed(service: ProxiedService, run_id: str) -> Iterator[None]:
    """The run's row is changed by a transaction that commits at the end of the block."""
    with psycopg.connect(service.database_url) as conn:
        conn.execute("UPDATE runs SET version = version + 1 WHERE run_id = %s", (run_id,))
        yield


def wait_for_lock(service: ProxiedService, name: str) -> None:
    """Wait until a transaction of this process waits for a lock."""
    wait_until(lambda: service.ask(WAITING, name=name), what=f"{name} to wait", every_s=0.02)


def num_deadlocks(service: ProxiedService) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(service.ask(query)[0][0])


def errors_retried(service: ProxiedService, run_id: str) -> set[str]:
    """Why the trainer repeated writes for the run."""
    lines = [line for event in RETRIED for line in service.logged(TRAINER, event)]
    return {line["error"] for line in lines if line["run_id"] == run_id}


def refused(answer: httpx.Response) -> None:
    """The answer says when to come back."""
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.json()["retryable"] is True
    assert int(answer.headers["Retry-After"]) > 0


def test_no_connection_is_free(service: ProxiedService) -> None:
    run_id = service.submit(max_train_steps=60)
    service.in_mid_run(run_id)

    with setting(service, "CONNECTION LIMIT 0", "CONNECTION LIMIT -1"):
        refused(service.tenant.http.get("/v1/runs"))
        assert httpx.get(f"{service.fleet.url}/healthz").status_code == 200

    service.fleet.wait_ready()
    assert len(service.ended_once(run_id)) == 1


def test_a_request_in_a_deadlock_is_to_be_repeated(service: ProxiedService) -> None:
    key = str(uuid.uuid4())
    request = small_run_request(service.datasets, max_train_steps=2)
    (tenant_id,) = service.ask("SELECT tenant_id FROM tenants")[0]
    before = num_deadlocks(service)

    def send() -> httpx.Response:
        return service.tenant.http.post("/v1/runs", json=request, headers={"Idempotency-Key": key})

    with (
        setting(service, "SET deadlock_timeout = '3s'", "RESET deadlock_timeout"),
        ThreadPoolExecutor(1) as threads,
        other_session(service) as conn,
    ):
        service.fleet.wait_ready()
        conn.execute("SELECT FROM tenants WHERE tenant_id = %s FOR NO KEY UPDATE", (tenant_id,))
        first = threads.submit(send)
        wait_for_lock(service, "api")
        conn.execute(
            "INSERT INTO idempotency_keys (tenant_id, method, path, key, fingerprint)"
            " VALUES (%s, 'POST', '/v1/runs', %s, '')",
            (tenant_id, key),
        )
    refused(first.result())
    assert num_deadlocks(service) > before

    service.fleet.wait_ready()
    second = send()
    assert second.status_code == 201
    service.ended_once(second.json()["id"])


def test_a_trainer_in_a_deadlock_repeats_its_write(service: ProxiedService) -> None:
    run_id = service.submit(max_train_steps=60)
    service.in_mid_run(run_id)
    before = num_deadlocks(service)

    with other_session(service) as conn:
        conn.execute("SELECT FROM attempts WHERE run_id = %s FOR UPDATE", (run_id,))
        wait_for_lock(service, TRAINER)  # with the row of the run
        conn.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (run_id,))

    assert num_deadlocks(service) > before
    assert len(service.ended_once(run_id)) == 1
    assert errors_retried(service, run_id) == {"DatabaseBusyError"}


def test_serialization_failures_are_repeated(service: ProxiedService) -> None:
    waiting = service.tenant.push({"a.jpg": b"never completed"}, complete=False)
    idle_id = service.tenant.submit(small_run_request({"photos": waiting}))

    def cancel() -> httpx.Response:
        return service.tenant.http.post(f"/v1/runs/{idle_id}:cancel", json={})

    with setting(
        service,
        "SET default_transaction_isolation = 'repeatable read'",
        "RESET default_transaction_isolation",
    ):
        service.fleet.wait_ready()
        run_id = service.submit(max_train_steps=60)
        service.in_mid_run(run_id)
        with ThreadPoolExecutor(1) as threads:
            with changed(service, run_id):
                wait_for_lock(service, TRAINER)
            with changed(service, idle_id):
                first = threads.submit(cancel)
                wait_for_lock(service, "api")
        refused(first.result())
        assert cancel().status_code == 202
        assert len(service.ended_once(run_id)) == 1

    assert errors_retried(service, run_id) == {"DatabaseBusyError"}
