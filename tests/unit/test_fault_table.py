"""The table of faults names tests that exist, and each fault once."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests/faults/README.md").read_text()
ROWS = [line.split("|")[1:-1] for line in TABLE.splitlines() if re.match(r"\| F\d\d ", line)]
TIERS = {"gate", "deep", "random"}


@cache
def functions_of(path: str) -> dict[str, bool]:
    """Test functions of a file → whether it is deep."""
    tree = ast.parse((ROOT / path).read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    all_deep = any("pytestmark" in ast.unparse(node) for node in assigned)
    return {
        node.name: all_deep or any("mark.deep" in ast.unparse(d) for d in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named(cell: str) -> list[tuple[str, str]]:
    """Path and name of each test in a cell."""
    return [(path, name) for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cell)]


def test_each_fault_has_a_row() -> None:
    assert [row[0].strip() for row in ROWS] == [f"F{n:02d}" for n in range(1, 46)]


def test_each_row_has_tests_in_its_tier_or_a_reason() -> None:
    for id_, fault, injected, tests, tier in ROWS:
        assert fault.strip(), id_
        if not named(tests):
            assert injected.strip() == "-", id_
            assert tests.strip(), f"{id_}: neither a test nor a reason"
            continue
        assert set(tier.replace(",", " ").split()) <= TIERS, id_
        assert tests.count("`") == 2 * len(named(tests)), f"{id_}: write `path::name`"


def test_the_tests_exist() -> None:
    for id_, _, _, tests, tier in ROWS:
        found = {name: functions_of(path).get(name) for path, name in named(tests)}
        assert None not in found.values(), f"{id_}: {found}"
        for name, is_deep in found.items():
            assert ("deep" if is_deep else "gate") in tier, f"{id_}: {name} is deep: {is_deep}"
