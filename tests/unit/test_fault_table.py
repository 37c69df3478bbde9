"""The table of faults has each of them once, and names all of their tests, each in its tier."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests/faults/README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in TABLE.splitlines()
    if re.match(r"\| F\d\d ", line)
]


@cache
def tiers_of(path: str) -> dict[str, str]:
    """Test functions of a file → ``gate`` or ``deep``."""
    tree = ast.parse((ROOT / path).read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    all_deep = any("pytestmark" in ast.unparse(node) for node in assigned)
    return {
        node.name: "deep"
        if all_deep or any("mark.deep" in ast.unparse(d) for d in node.decorator_list)
        else "gate"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named(text: str) -> list[tuple[str, str]]:
    """Path and name of each test in a text."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_each_fault_has_a_row_with_a_cause_and_tests() -> None:
    assert [row[0] for row in ROWS] == [f"F{n:02d}" for n in range(1, len(ROWS) + 1)]
    for id_, fault, injected, tests, _ in ROWS:
        assert fault, id_
        assert injected, id_
        assert named(tests), id_
        assert tests.count("`") == 2 * len(named(tests)), f"{id_}: write `path::name`"


def test_the_tests_exist_and_are_in_the_tier_of_their_row() -> None:
    for id_, _, _, tests, tier in ROWS:
        missing = [each for each in named(tests) if each[1] not in tiers_of(each[0])]
        assert missing == [], id_
        tiers = {tiers_of(path)[name] for path, name in named(tests)}
        assert set(tier.split(", ")) - {"random"} == tiers, id_


def test_every_test_of_a_fault_is_named() -> None:
    files = sorted((ROOT / "tests/faults").glob("test_*.py"))
    paths = [file.relative_to(ROOT).as_posix() for file in files]
    all_tests = {(path, name) for path in paths for name in tiers_of(path)}
    assert len(all_tests) > 50
    assert all_tests - set(named(TABLE)) == set()
