"""The console output of ``reverie up``: the children's log lines, with name and colour."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "red")
_EVERY_S = 0.2


class LogFollower:
    """Follows log files and copies new lines to the console until it is closed."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._open: dict[Path, IO[bytes]] = {}
        self._rest: dict[Path, bytes] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Show the remaining lines, then stop; nothing happens where it was not started."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        for stream in self._open.values():
            stream.close()

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._copy(self._folder.glob("*.log"))
        self._copy(self._folder.glob("*.log"))

    def _copy(self, files: Iterable[Path]) -> None:
        for file in sorted(files):
            stream = self._open.get(file)
            if stream is None:
                stream = self._open[file] = file.open("rb")
            body = self._rest.pop(file, b"") + stream.read()
            *lines, rest = body.split(b"\n")
            if rest:
                self._rest[file] = rest
            for line in lines:
                self._show(file.stem, line.decode(errors="replace"))

    def _show(self, name: str, line: str) -> None:
        colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
        shown = Text(f"{name:<13} | ", style=colour)
        shown.append(Text.from_ansi(line))
        self._console.print(shown, soft_wrap=True, highlight=False)


def start_new_logs(folder: Path) -> None:
    """Keep the logs of the last start as ``<name>.log.1`` and start with empty ones."""
    for file in folder.glob("*.log"):
        file.replace(file.with_suffix(".log.1"))
