"""Curves of a run: reduced as in float64, each step once, and bounded work for a long run."""

import math
import random
import time
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest

from services.domain.ledger import ChildEvent, Claim, Outcome
from services.store import checkpoint_retention, run_metrics
from services.store.run_metrics import Bin
from tests.support.runs import TenantDatabase, checkpoint_at


def report(tenant_db: TenantDatabase, claim: Claim, *steps: tuple[int, Any]) -> None:
    events = [
        ChildEvent(type="step", step=step, data={"loss": value, "kind": "text"})
        for step, value in steps
    ]
    tenant_db.ledger.event(claim.run_id, claim.fence, events)


def resumed(tenant_db: TenantDatabase, claim: Claim) -> Claim:
    """The next attempt, from the newest checkpoint."""
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    again = tenant_db.ledger.claim(claim.run_id, worker_id="wrk_2", lease=timedelta(seconds=60))
    assert again is not None
    return again


def bins(tenant_db: TenantDatabase, run_id: str, *names: str, points: int = 500) -> list[Bin]:
    newest = tenant_db.run(run_id).event_seq
    with tenant_db.database.transaction() as conn:
        return run_metrics.bins(
            conn, tenant_db.tenant_id, run_id, names, newest_seq=newest, points=points
        )


@pytest.mark.parametrize("points", [1, 7, 100, 1000])
def test_bins_are_those_of_a_reduction_in_float64(tenant_db: TenantDatabase, points: int) -> None:
    numbers = random.Random(points)
    values: list[tuple[int, float | None]] = [
        (step, numbers.choice([None, numbers.gauss(0, 1e-6), numbers.lognormvariate(0, 20)]))
        for step in range(1, 778)
        if numbers.random() < 0.9
    ]
    claim = tenant_db.held(max_steps=1000)
    report(tenant_db, claim, *values)

    width = math.ceil(values[-1][0] / points)
    expected: defaultdict[int, list[tuple[int, float | None]]] = defaultdict(list)
    for step, value in values:
        expected[(step - 1) // width].append((step, value))
    found = bins(tenant_db, claim.run_id, "loss", points=points)
    assert len(found) == len(expected) <= points
    for one, (_, members) in zip(found, sorted(expected.items()), strict=True):
        finite = [value for _, value in members if value is not None]
        assert (one.first_step, one.last_step) == (members[0][0], members[-1][0])
        assert one.count == len(finite)
        assert one.min == (min(finite) if finite else None)
        assert one.max == (max(finite) if finite else None)
        mean = math.fsum(finite) / len(finite) if finite else None
        assert one.mean == (None if mean is None else pytest.approx(mean, rel=1e-12, abs=1e-18))


def test_a_step_that_was_taken_again_counts_once(tenant_db: TenantDatabase) -> None:
    first = tenant_db.held()
    report(tenant_db, first, *((step, 1.0) for step in range(1, 8)))
    tenant_db.ledger.commit_checkpoint(first.run_id, first.fence, checkpoint_at(first, 4))
    second = resumed(tenant_db, first)
    report(tenant_db, second, (5, 2.0))
    found = bins(tenant_db, first.run_id, "loss")
    # Steps 6 and 7 are not in the weights any more.
    assert [(b.first_step, b.mean) for b in found] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]

    third = resumed(tenant_db, second)
    report(tenant_db, third, (3, 3.0), (4, 3.0), (5, 3.0))  # its checkpoint was damaged
    found = bins(tenant_db, first.run_id, "loss")
    assert [(b.first_step, b.mean) for b in found] == [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)]


def test_a_metric_that_is_no_number_has_no_value(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    report(tenant_db, claim, (1, 1e300), (2, -1e300), (3, math.nan), (4, 10**400), (5, "1"), (6, 7))
    found = bins(tenant_db, claim.run_id, "loss", "kind", "absent")
    assert [(b.name, b.count, b.mean) for b in found if b.count] == [("loss", 1, 7.0)]
    assert len(found) == 18
    with tenant_db.database.transaction() as conn:
        scope = (conn, tenant_db.tenant_id, claim.run_id)
        assert run_metrics.names(*scope, newest_seq=100) == ["loss"]
        assert run_metrics.names(conn, "ten_other", claim.run_id, newest_seq=100) == []


def test_evaluations_are_those_of_the_steps_that_the_run_goes_on_from(
    tenant_db: TenantDatabase,
) -> None:
    def measure(claim: Claim, step: int, mean: Any, **more: Any) -> None:
        data = {"name": "evaluation", "mean": mean, "low": 0.5, "high": 2.5, **more}
        others = [{"name": "probe", "mean": 9.0}, {"name": "clip", "mean": 9.0}]
        events = [ChildEvent(type="eval", step=step, data=each) for each in (*others, data)]
        tenant_db.ledger.event(claim.run_id, claim.fence, events)

    def found(limit: int = 1000) -> list[tuple[int, float | None]]:
        with tenant_db.database.transaction() as conn:
            scope = (conn, tenant_db.tenant_id, first.run_id)
            assert run_metrics.evaluations(conn, "ten_other", first.run_id) == []
            return [(e.step, e.mean) for e in run_metrics.evaluations(*scope, limit=limit)]

    first = tenant_db.held()
    assert found() == []
    for step, mean in ((0, 3.0), (4, 2.0), (6, 1.0)):
        measure(first, step, mean)
    tenant_db.ledger.commit_checkpoint(first.run_id, first.fence, checkpoint_at(first, 4))
    assert found() == [(0, 3), (4, 2), (6, 1)]
    second = resumed(tenant_db, first)
    assert found() == [(0, 3), (4, 2)]  # step 6 is lost
    for step, value in ((6, 0.5), (6, 0.75), (8, math.nan), (10, 10**400), (12, "1")):
        measure(second, step, value, low=None)
    assert found() == [(0, 3), (4, 2), (6, 0.75), (8, None), (10, None), (12, None)]
    assert found(limit=2) == [(10, None), (12, None)]
    with tenant_db.database.transaction() as conn:
        measured = run_metrics.evaluations(conn, tenant_db.tenant_id, first.run_id)
    assert [(each.low, each.high) for each in measured[1:3]] == [(0.5, 2.5), (None, 2.5)]


def test_clip_scores_are_those_of_the_steps_that_the_run_goes_on_from(
    tenant_db: TenantDatabase,
) -> None:
    def score(claim: Claim, step: int, weights: str, mean: Any) -> None:
        data = {"name": "clip", "weights": weights, "mean": mean, "min": 0.125, "max": 0.5}
        others = [{"name": "evaluation", "weights": "trained", "mean": 9.0}]
        events = [ChildEvent(type="eval", step=step, data=each) for each in (*others, data)]
        tenant_db.ledger.event(claim.run_id, claim.fence, events)

    def found(limit: int = 1000) -> list[tuple[int, str, float | None]]:
        with tenant_db.database.transaction() as conn:
            scope = (conn, tenant_db.tenant_id, first.run_id)
            assert run_metrics.clip_scores(conn, "ten_other", first.run_id) == []
            scores = run_metrics.clip_scores(*scope, limit=limit)
        assert {(each.min, each.max) for each in scores} <= {(0.125, 0.5)}
        return [(each.step, each.weights, each.mean) for each in scores]

    first = tenant_db.held()
    assert found() == []
    for step, weights in ((0, "base"), (4, "trained"), (4, "ema"), (6, "ema"), (6, "other")):
        score(first, step, weights, 0.25)
    tenant_db.ledger.commit_checkpoint(first.run_id, first.fence, checkpoint_at(first, 4))
    kept = [(0, "base", 0.25), (4, "ema", 0.25), (4, "trained", 0.25)]
    assert found() == [*kept, (6, "ema", 0.25)]
    second = resumed(tenant_db, first)
    assert found() == kept  # step 6 is lost
    for mean in (0.375, math.nan):
        score(second, 6, "trained", mean)
    assert found() == [*kept, (6, "trained", None)]
    assert found(limit=2) == [(4, "ema", 0.25), (6, "trained", None)]


@pytest.mark.parametrize("name", ["_BEST", "_EVALUATIONS", "_CLIP_SCORES"])
def test_measurements_are_found_by_an_index(tenant_db: TenantDatabase, name: str) -> None:
    """However many steps a run has, only what was measured is read."""
    claim = tenant_db.held()
    query = {**vars(run_metrics), **vars(checkpoint_retention)}[name]
    text = query if isinstance(query, str) else query.as_string()
    facts: Any = {"tenant_id": claim.tenant_id, "run_id": claim.run_id, "limit": 9}
    with tenant_db.database.transaction() as conn:
        conn.execute("SET LOCAL enable_seqscan = off")
        rows = conn.execute(
            f"EXPLAIN {text}", (claim.run_id,) if name == "_BEST" else facts
        ).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "events_measured" in plan, plan


@pytest.mark.deep
def test_of_a_long_run_every_nth_event_is_looked_at(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held(max_steps=1_000_000)
    num_steps = 180_000
    with tenant_db.database.transaction() as conn:
        (before,) = conn.execute(
            "SELECT event_seq FROM runs WHERE run_id = %s", (claim.run_id,)
        ).fetchone() or (0,)
        conn.execute(
            "INSERT INTO events (run_id, seq, tenant_id, fence, type, step, data)"
            " SELECT %s, %s + step, %s, %s, 'step', step,"
            " jsonb_build_object('loss', step, 'pad', repeat('x', 300))"
            " FROM generate_series(1, %s) AS step",
            (claim.run_id, before, claim.tenant_id, claim.fence, num_steps),
        )
        conn.execute(
            "UPDATE runs SET event_seq = %s, step = %s WHERE run_id = %s",
            (before + num_steps, num_steps, claim.run_id),
        )
    newest = before + num_steps
    assert run_metrics.stride(newest) == 4

    started_s = time.monotonic()
    found = bins(tenant_db, claim.run_id, "loss")
    assert time.monotonic() - started_s < 3

    assert len(found) == 500
    assert sum(each.count for each in found) == newest // 4 - before // 4
    for one in found:
        assert one.mean == pytest.approx((one.first_step + one.last_step) / 2, rel=1e-12)
