"""pytest plugin: the files that take longest come first, so that all processes end together.

`make test` gives whole files to its processes. A long file that begins last would keep one busy
while the others wait.
"""

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

_LIST: Final = Path(__file__).with_name("slow_files.txt")
"""The slow files, the slowest first: a path a line. ``--write-slow-files`` writes it."""
_SLOW_S: Final = 5.0
_WRITE: Final = "--write-slow-files"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_WRITE, action="store_true", help=f"write {_LIST.name} anew, from this run")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(_WRITE):
        config.pluginmanager.register(_Writer())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file; within a file the order stays."""
    places = {name: place for place, name in enumerate(_LIST.read_text().split())}
    items.sort(key=lambda item: places.get(_file_of(item.nodeid), len(places)))


class _Writer:
    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[_file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        slow = [name for name, took_s in self._seconds.most_common() if took_s >= _SLOW_S]
        _LIST.write_text("".join(f"{name}\n" for name in slow))


def _file_of(node_id: str) -> str:
    return node_id.partition("::")[0]
