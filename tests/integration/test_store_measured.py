"""What finished work took is recorded once, without its tenant, and only the newest is kept."""

import math
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from services.domain.ledger import ChildEvent, Claim, Outcome
from services.store import measured
from services.store.database import Database
from services.store.scoped_database import ROLE, ScopedDatabase
from tests.support.runs import TenantDatabase, result_of

WORK: dict[str, Any] = {
    "traits": {"compute": "bf16"},
    "step_flops": 1e9,
    "pass_flops": 1e8,
    "sample_flops": 1e9,
    "checkpoint_interval": 10,
}
TIMES: dict[str, Any] = {
    "steps": 99,
    "start_s": 4.0,
    "step_s": 0.5,
    "checkpoint_s": 0.25,
    "end_s": 3.0,
    "process_s": 60.0,
}


def report_end(tenant: TenantDatabase, claim: Claim, name: str, **times: Any) -> None:
    event = ChildEvent(type=name, step=100, data={"times": {**TIMES, **times}}, number=1)
    tenant.ledger.event(claim.run_id, claim.fence, [event])


def test_a_finished_attempt_is_recorded_with_its_parts(
    database: Database, database_url: str
) -> None:
    tenant = TenantDatabase.new(database)
    claim = tenant.held(work=WORK)
    report_end(tenant, claim, "finished")
    tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)  # again

    scoped = ScopedDatabase(database_url, 1, statement_timeout=timedelta(seconds=10))
    with scoped.transaction(tenant.neighbour().tenant_id) as conn:
        (found,) = measured.attempts(conn, "cpu", "hidream-tiny")
        assert measured.attempts(conn, "h200", "hidream-tiny") == []
    scoped.close()
    assert (found.work, found.num_steps, found.step_s, found.end_s) == (WORK, 99, 0.5, 3.0)
    (attempt,) = tenant.attempts(claim.run_id)
    assert attempt.ended_at is not None
    took = attempt.ended_at - attempt.started_at
    assert found.total_s == pytest.approx(took.total_seconds(), abs=1e-3)


def test_a_stopped_attempt_has_no_end_and_a_failed_one_is_not_recorded(
    database: Database,
) -> None:
    tenant = TenantDatabase.new(database)
    stopped, failed, silent = (tenant.held(work=WORK) for _ in range(3))
    report_end(tenant, stopped, "stopped")
    tenant.ledger.hand_back(stopped.run_id, stopped.fence, Outcome.STOPPED, None)
    report_end(tenant, failed, "failed")
    tenant.ledger.hand_back(failed.run_id, failed.fence, Outcome.FAILED, None)
    tenant.ledger.hand_back(silent.run_id, silent.fence, Outcome.STOPPED, None)
    with database.transaction() as conn:
        (found,) = measured.attempts(conn, "cpu", "hidream-tiny")
    assert found.end_s is None


@pytest.mark.parametrize("times", [{"steps": 0, "step_s": None}, {"start_s": None}])
def test_an_attempt_without_a_measured_step_is_not_recorded(
    database: Database, times: dict[str, Any]
) -> None:
    tenant = TenantDatabase.new(database)
    claim = tenant.held(work=WORK)
    report_end(tenant, claim, "finished", **times)
    tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with database.transaction() as conn:
        assert measured.attempts(conn, "cpu", "hidream-tiny") == []


def test_only_the_newest_of_a_class_are_kept(database: Database) -> None:
    tenant = TenantDatabase.new(database)
    with database.transaction() as conn:
        conn.execute(
            "INSERT INTO measured_attempts SELECT 'att_' || n, 'cpu', 'hidream-tiny', '{}', 1, 1,"
            " 1, 1, 1, 1, 1, 1, clock_timestamp() - make_interval(secs => n)"
            " FROM generate_series(1, 600) AS n"
        )
    claim = tenant.held(work=WORK)
    report_end(tenant, claim, "finished")
    tenant.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with database.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM measured_attempts").fetchone() == (200,)
        newest = measured.attempts(conn, "cpu", "hidream-tiny")
    assert len(newest) == 200
    assert newest[0].work == WORK


def test_tenants_read_no_measurement_but_by_the_function(database_url: str) -> None:
    with psycopg.connect(database_url, options=f"-c role={ROLE}", autocommit=True) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM measured_attempts")
        assert conn.execute("SELECT * FROM newest_measured_attempts('cpu', 'x')").fetchall() == []


def test_encoding_is_a_moving_average_that_one_slow_shard_changes_little(
    database: Database,
) -> None:
    with database.transaction() as conn:
        for _ in range(60):
            measured.record_encoding(conn, "hidream-tiny", "text", units=8, took_s=4)
        measured.record_encoding(conn, "hidream-tiny", "text", units=8, took_s=400)
        pace = measured.encoding(conn, "hidream-tiny")["text"]
    assert pace.num_shards == 61
    assert pace.ln_unit_s == pytest.approx(math.log(0.5) + math.log(100) / 50, abs=0.01)
