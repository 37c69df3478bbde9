"""The tests fail when a guard is removed: each bug is planted in a copy of the code."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = ("services", "trainer_core", "tests", "examples", "pyproject.toml")
_DEADLINE_S: Final = 540
_PASSED, _FAILED = 0, 1
"""Exit statuses of pytest; any other means that the tests did not run."""


@dataclass(frozen=True, kw_only=True)
class PlantedBug:
    """A change to one file that breaks a promise."""

    file: str
    replaced: Mapping[str, str]
    """Text that must occur in the file → its replacement."""
    quick: str
    """A test of the store that must fail."""


_FENCE: Final = PlantedBug(
    file="services/store/ledger.py",
    replaced={
        "AND fence = %(fence)s AND lease_until IS NOT NULL": "AND lease_until IS NOT NULL",
        "run.fence != fence or ": "",
    },
    quick="tests/integration/test_store_ledger.py::test_a_stale_fence_changes_nothing",
)
_LEASE: Final = PlantedBug(
    file="services/store/leases.py",
    replaced={"lease_until < clock_timestamp()": "lease_until IS NOT NULL"},
    quick="tests/integration/test_store_ledger.py"
    "::test_the_sweep_closes_only_attempts_with_an_expired_lease",
)
_BUGS: Final = pytest.mark.parametrize(
    "bug", [_FENCE, _LEASE], ids=["fence guard removed", "lease ignored"]
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(_ROOT / name, tmp_path / name)
    return tmp_path


@_BUGS
def test_the_store_tests_find_it(copy: Path, bug: PlantedBug) -> None:
    _plant(copy, bug)

    assert bug.quick in _failed(copy, bug.quick)[0]


@pytest.mark.deep
def test_the_tests_with_real_processes_find_an_ignored_lease(copy: Path) -> None:
    _plant(copy, _LEASE)

    # The whole file: its tests share a fleet, and each starts where the one before it ended.
    kills = "tests/faults/test_kills.py"
    first = f"{kills}::test_sigkill_of_the_supervisor_costs_at_most_one_interval"
    assert _failed(copy, kills) == [first]


def _plant(folder: Path, bug: PlantedBug) -> None:
    path = folder / bug.file
    text = path.read_text()
    for right, wrong in bug.replaced.items():
        assert right in text, f"{bug.file} no longer holds {right!r}"
        text = text.replace(right, wrong)
    path.write_text(text)


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
