"""A short run of ``make faults``: random faults of one seed, then every invariant is checked."""

from pathlib import Path

import pytest

from tests.faults.random.__main__ import run
from tests.faults.random.check import overlap_steps
from tests.faults.random.rows import AttemptRow
from tests.faults.random.schedule import KINDS, make_schedule
from tests.support.rgw import need_rgw

REPORTED = [
    "seed",
    "runs",
    "faults",
    "lost",
    "healthy_failed",
    "committed_twice",
    "accepted_stale",
    "torn",
    "bit_equal",
    "claims",
    "claims_over_https",
    "lost_steps(kill)",
    "lost_steps(term)",
    "extra_steps",
    "overlap_steps",
    "refused_writes",
    "drain_s",
    "wall_s",
]


def test_the_schedule_is_a_function_of_the_seed() -> None:
    first = make_schedule(7, 90)

    assert first == make_schedule(7, 90)
    assert first != make_schedule(8, 90)
    assert {fault.kind for fault in first} == set(KINDS)


@pytest.mark.deep
def test_no_promise_is_broken(tmp_path: Path) -> None:
    need_rgw()

    report = run(tmp_path, seed=3, seconds=20)

    assert report.breaches == []
    assert all(f" {name}=" in report.line() for name in REPORTED)


def test_steps_that_were_refused_are_counted_from_the_last_that_was_stored() -> None:
    ended = AttemptRow(
        run_id="run_a", fence=1, from_step=0, last_step=6, outcome="lost", reason="worker_lost"
    )

    assert overlap_steps([ended], {("run_a", 1): 9}) == {("run_a", 1): 3}
    assert overlap_steps([ended], {("run_a", 1): 5}) == {("run_a", 1): 0}
