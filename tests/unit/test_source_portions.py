"""Portions of a source's rows: each ends within its limits, and a step on."""

import threading
from collections.abc import Iterator
from pathlib import Path

from trainer_core.sources.numbered import Position, Step
from trainer_core.sources.portions import PortionLimits, fetch_portion


def test_files_without_a_wanted_row_do_not_make_a_portion_last_for_ever(tmp_path: Path) -> None:
    def steps() -> Iterator[Step]:
        """A thousand files, of whose rows a filter drops all."""
        for number in range(1000):
            yield Step(after=Position(revision="1", shard=number + 1), row=None)

    limits = PortionLimits(rows=64, size_bytes=1 << 20, seconds=0, file_bytes=1 << 20)
    start = Position(revision="1")
    portion = fetch_portion(steps(), start, tmp_path, limits, threading.Event())
    assert portion.position == Position(revision="1", shard=1)
    assert not portion.is_last
