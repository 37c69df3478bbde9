"""A bar for work that is counted in bytes, as the ``Reporter`` of trainer_core."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from services.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ByteProgress:
    """A ``Reporter``: lines on stderr, and a bar for each stage."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def log(self, text: str) -> None:
        output.print_note(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def check_control(self) -> None:
        """Ctrl-C stops the command by itself."""


@contextlib.contextmanager
def byte_progress() -> Iterator[ByteProgress]:
    """Bars on stderr while the block runs; none where stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    _, err = output.consoles()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield ByteProgress(bars)
