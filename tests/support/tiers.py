"""pytest plugin: how many seconds each tier (folder under tests/) took, before the closing line."""

from collections import Counter
from pathlib import PurePosixPath

import pytest

_seconds = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_seconds] = Counter()
    config.pluginmanager.register(_Clock(config.stash[_seconds]))


class _Clock:
    def __init__(self, seconds: Counter[str]) -> None:
        self._seconds = seconds

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Set-up and teardown count too: they start and stop the servers."""
        parts = PurePosixPath(report.nodeid.partition("::")[0]).parts
        tier = parts[1] if len(parts) > 2 else "other"
        self._seconds[tier] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._seconds:
            tiers = ", ".join(f"{name} {spent:.1f} s" for name, spent in self._seconds.items())
            terminalreporter.write_line(f"seconds per tier: {tiers}")
