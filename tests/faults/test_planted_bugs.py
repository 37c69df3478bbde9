"""The tests fail when a guard is removed: each bug is planted in a copy of the code."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.faults.planted import FENCE, LEASE, PlantedBug, copy_with

pytestmark = pytest.mark.deep

_DEADLINE_S: Final = 540
_PASSED, _FAILED = 0, 1
"""Exit statuses of pytest; any other means that the tests did not run."""
_STORE_TESTS: Final = "tests/integration/test_store_ledger.py"


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (FENCE, f"{_STORE_TESTS}::test_a_stale_fence_changes_nothing"),
        (LEASE, f"{_STORE_TESTS}::test_the_sweep_closes_only_attempts_with_an_expired_lease"),
    ],
    ids=["fence guard removed", "lease ignored"],
)
def test_the_store_tests_find_it(tmp_path: Path, bug: PlantedBug, test: str) -> None:
    copy_with(bug, tmp_path)

    assert test in _failed(tmp_path, test)[0]


def test_the_tests_with_real_processes_find_an_ignored_lease(tmp_path: Path) -> None:
    copy_with(LEASE, tmp_path)

    # The whole file: its tests share a fleet, and each starts where the one before it ended.
    kills = "tests/faults/test_kills.py"
    first = f"{kills}::test_sigkill_of_the_supervisor_costs_at_most_one_interval"
    assert _failed(tmp_path, kills) == [first]


def _failed(folder: Path, tests: str) -> list[str]:
    """The first test of these that fails in the copy; none where all pass."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-rf", "-p", "no:cacheprovider", tests],
        cwd=folder,
        env={**env, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert done.returncode in (_PASSED, _FAILED), done.stdout[-2000:] + done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return [line.split()[1] for line in lines]
