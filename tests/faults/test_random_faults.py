"""A short run of ``make faults``: random faults of one seed, then every invariant is checked."""

from pathlib import Path

import pytest

from tests.faults.random.__main__ import run
from tests.faults.random.schedule import KINDS, make_schedule
from tests.support.rgw import need_rgw


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
