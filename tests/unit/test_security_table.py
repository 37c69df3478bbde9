"""The table of attacks has each of them once, and names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests/security/README.md").read_text()
ROWS = {
    id_.strip(): (tried.strip(), tests.strip())
    for id_, tried, tests in (
        line.strip("|").split("|") for line in TABLE.splitlines() if re.match(r"\| S\d\d ", line)
    )
}


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def named(cell: str) -> list[tuple[str, str]]:
    """Path and name of each test in a cell; no name for a whole file.

    ``::name`` alone is of the file that was named before it.
    """
    found: list[tuple[str, str]] = []
    for path, name in re.findall(r"`(tests/[\w/]*test_\w+\.py)?(?:::(\w+))?`", cell):
        if path or name:
            found.append((path or found[-1][0], name))
    return found


def test_each_attack_has_a_row() -> None:
    assert list(ROWS) == [f"S{n:02d}" for n in range(1, 31)]


def test_each_row_has_a_test() -> None:
    for id_, (tried, tests) in ROWS.items():
        assert tried, id_
        assert named(tests), id_


def test_the_tests_exist() -> None:
    for id_, (_, tests) in ROWS.items():
        for path, name in named(tests):
            assert any(each.startswith("test_") for each in functions_of(path)), (id_, path)
            assert not name or name in functions_of(path), (id_, path, name)


def test_decisions_have_numbers_of_their_own() -> None:
    numbers = [file.name[:4] for file in (ROOT / "deploy/decisions").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers)) > 15
