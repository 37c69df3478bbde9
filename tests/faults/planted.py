"""Bugs that break a promise, each planted in a copy of the code: the tests have to find them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = ("services", "trainer_core", "tests", "examples", "pyproject.toml")


@dataclass(frozen=True, kw_only=True)
class PlantedBug:
    """A change to one file."""

    file: str
    replaced: Mapping[str, str]
    """Text that must occur in the file → its replacement."""


FENCE: Final = PlantedBug(
    file="services/store/ledger.py",
    replaced={
        "AND fence = %(fence)s AND lease_until IS NOT NULL": "AND lease_until IS NOT NULL",
        "run.fence != fence or ": "",
    },
)
"""The guard of the fence is removed: a former holder may write."""
LEASE: Final = PlantedBug(
    file="services/store/leases.py",
    replaced={"lease_until < clock_timestamp()": "lease_until IS NOT NULL"},
)
"""The sweep ignores the lease: it takes runs from living holders."""


def copy_with(bug: PlantedBug, folder: Path) -> None:
    """Copy the code to ``folder`` and plant the bug there."""
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(_ROOT / name, folder / name)
    path = folder / bug.file
    text = path.read_text()
    for right, wrong in bug.replaced.items():
        assert right in text, f"{bug.file} no longer holds {right!r}"
        text = text.replace(right, wrong)
    path.write_text(text)
