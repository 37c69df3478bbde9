"""A run is paused and canceled while a real process holds it, and stops at its limit."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.store import gpu_classes, publications, run_changes, run_control
from services.store.database import Connection, Database
from services.store.run_changes import RunChanges
from tests.integration.trainer_supervisor_child import SLOW_STEP_S
from tests.integration.trainer_supervisor_host import TrainerHost, open_host

LIMIT_S = 1.5
CHECKPOINT_S = 1.0
"""Longest time from the last step to the end of the attempt, on a loaded machine."""


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def checkpoint_steps(host: TrainerHost) -> list[int]:
    rows = host.ask("SELECT step FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step")
    return [step for (step,) in rows]


Ask = Callable[[Connection, str, str], Any]


@pytest.mark.parametrize(
    ("ask", "status", "num_checkpoints"),
    [
        (run_control.pause, "paused", 1),
        (run_control.cancel, "canceled", 1),
        (lambda c, t, r: run_control.cancel(c, t, r, now=True), "canceled", 0),
    ],
    ids=["pause", "cancel", "cancel now"],
)
def test_a_run_that_trains_stores_one_checkpoint_unless_it_is_canceled_now(
    host: TrainerHost, database: Database, ask: Ask, status: str, num_checkpoints: int
) -> None:
    holder = host.start("unsaved")
    host.wait_for_step(3)
    with database.transaction() as conn:
        ask(conn, host.tenant_id, host.run_id)
    assert host.end_of(holder) == 0, host.logs()

    run = host.run()
    assert run["status"] == status, host.logs()
    assert [row[0] for row in host.attempts()] == ["stopped"]
    assert checkpoint_steps(host) == [run["step"]] * num_checkpoints
    assert not host.child_pids()
    with database.transaction() as conn:
        assert publications.list_page(conn, host.tenant_id, 10) == []


@pytest.mark.deep
def test_a_hung_process_delays_a_cancel_only_so_long(host: TrainerHost, database: Database) -> None:
    holder = host.start("hang", REVERIE_CANCEL_S="1")
    host.wait_for_step(5)
    with database.transaction() as conn:
        run_control.cancel(conn, host.tenant_id, host.run_id)
    asked_s = time.monotonic()
    assert host.end_of(holder) == 0, host.logs()

    assert time.monotonic() - asked_s < 10
    assert host.run()["status"] == "canceled", host.logs()
    assert "cancel_without_checkpoint" in host.logs()
    assert not host.child_pids()


def test_at_most_one_step_and_its_checkpoint_are_charged_beyond_the_limit(
    host: TrainerHost, database: Database
) -> None:
    """Renewals are far apart: the holder's own count ends the training."""
    with database.transaction() as conn:
        gpu_classes.set_price(conn, "cpu", price_micros_per_hour=3_600_000, currency="EUR")
        limit = RunChanges(values={"max_cost_micros": int(LIMIT_S * 1000)})
        run_changes.change(conn, host.tenant_id, host.run_id, limit)
    holder = host.start("slow", REVERIE_LEASE_S="60", REVERIE_RENEW_S="20")
    assert host.end_of(holder) == 0, host.logs()

    run = host.run()
    assert run["status"] == "paused", host.logs()
    assert run["status_reason"]["code"] == "cost_limit_reached"
    assert checkpoint_steps(host) == [run["step"]]
    ((charged_s, cost_micros),) = host.ask("SELECT charged_s, cost_micros FROM runs")
    assert cost_micros == round(charged_s * 1000)
    assert LIMIT_S <= charged_s <= LIMIT_S + SLOW_STEP_S + CHECKPOINT_S
    assert run["step"] <= LIMIT_S / SLOW_STEP_S + 1
