"""What a training process says, one JSON object a line; the last one is its outcome."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from pydantic import JsonValue

EventName = Literal[
    "plan", "stage", "step", "eval", "checkpoint", "sample", "warning", "error",
    "finished", "stopped", "failed",
]  # fmt: skip

_VERSION: Final = 1

Event = Mapping[str, Any]
"""One line of the file: ``v``, ``seq``, ``event``, ``step``, ``t_s`` and the event's own fields."""
Listener = Callable[[Event], None]


class EventWriter:
    """Appends events to a file; each line is handed to the kernel before ``emit`` returns."""

    def __init__(self, path: Path) -> None:
        """Goes on counting where an earlier process stopped, after cutting off a torn last line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seq = _mend(path)
        self._started_s = time.monotonic()
        self.last_step = 0
        """Of the newest event of this process."""
        self._listeners: list[tuple[str, Listener]] = []
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def listen(self, name: str, listener: Listener) -> None:
        """Have every event told to ``listener`` as well, once it is written.

        One that raises is not told anything any more: a warning says so, and the run goes on.
        """
        self._listeners.append((name, listener))

    def emit(self, event: EventName, step: int, fields: Mapping[str, JsonValue]) -> None:
        """Write one event; numbers that are not finite become null."""
        self._seq += 1
        self.last_step = step
        line = {
            "v": _VERSION,
            "seq": self._seq,
            "event": event,
            "step": step,
            "t_s": round(time.monotonic() - self._started_s, 3),
            **fields,
        }
        finite = {name: _finite(value) for name, value in line.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        for each in tuple(self._listeners):
            if each in self._listeners:  # the warning about another one may have met it first
                self._tell(each, finite)

    def warn(self, code: str, message: str) -> None:
        """A warning at the step of the newest event."""
        self.emit("warning", self.last_step, {"code": code, "message": message})

    def _tell(self, listener: tuple[str, Listener], line: Event) -> None:
        name, tell = listener
        try:
            tell(line)
        except Exception as error:  # noqa: BLE001 - other people's code; training must outlive it
            self._listeners.remove(listener)
            why = f"{name} failed and is told nothing more: {type(error).__name__}: {error}"
            self.warn("listener_failed", why)


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _mend(path: Path) -> int:
    """The number of the last whole event; what a kill left of another one is cut off."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return 0
    whole = body[: body.rfind(b"\n") + 1]
    if len(whole) < len(body):
        os.truncate(path, len(whole))
    return int(json.loads(whole.splitlines()[-1])["seq"]) if whole else 0
