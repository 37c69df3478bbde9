"""The events of a training process: JSON objects, one per line, appended to a file.

The supervisor follows the file while it grows. The last event is the outcome of the process, not
its exit status.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

from pydantic import JsonValue

from trainer_core.disk import writing
from trainer_core.in_words import error_in_words

EventName = Literal[
    "plan", "stage", "step", "eval", "checkpoint", "preview", "sample", "warning",
    "finished", "stopped", "failed",
]  # fmt: skip

OUTCOMES: Final[frozenset[EventName]] = frozenset({"finished", "stopped", "failed"})
"""The last event of a process is exactly one of these."""

_NAMES: Final[Mapping[str, EventName]] = {name: name for name in get_args(EventName)}
_VERSION: Final = 1
_READ_BYTES: Final = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the event file."""

    name: EventName
    step: int
    """Number of optimizer steps done when the event was written."""
    seq: int
    """Number of the event in the file, from 1."""
    t_s: float
    """Seconds since its process opened the file."""
    data: Mapping[str, Any]
    """The other fields of the event; numbers are finite or None."""

    def as_line(self) -> bytes:
        """The line of the file, with its newline."""
        head = {
            "v": _VERSION,
            "seq": self.seq,
            "event": self.name,
            "step": self.step,
            "t_s": self.t_s,
        }
        return json.dumps({**head, **self.data}, allow_nan=False).encode() + b"\n"


def parse_event(line: bytes) -> Event:
    """The inverse of ``Event.as_line``; raises ValueError for anything else."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("an event is a JSON object")
    fields.pop("v", None)
    name, step, seq = (fields.pop(key, None) for key in ("event", "step", "seq"))
    t_s = fields.pop("t_s", 0.0)
    if not (isinstance(step, int) and isinstance(seq, int) and isinstance(t_s, int | float)):
        raise ValueError("an event has a step, a seq and a t_s")
    if (known := _NAMES.get(str(name))) is None:
        raise ValueError(f"no event is named {name!r}")
    return Event(name=known, step=step, seq=seq, t_s=t_s, data=fields)


Listener = Callable[[Event], None]


class EventWriter:
    """Appends events to a file; each line is handed to the kernel before ``emit`` returns."""

    def __init__(self, path: Path, *, began_s: float | None = None) -> None:
        """Continue the numbering of an earlier process; an incomplete last line is removed.

        ``began_s``: when the time of events begins, of ``time.monotonic``; None: now.
        """
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._seq = _repair(path)
            # Unbuffered: closing it never writes what a full disk did not take before.
            self._file = path.open("ab", buffering=0)
        self._started_s = time.monotonic() if began_s is None else began_s
        self.last_step = 0
        """Step of the newest event of this process."""
        self._listeners: list[tuple[str, Listener]] = []

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
        """Call ``listener`` with every event after it was written.

        A listener that raises is removed with a warning event, and the run continues.
        """
        self._listeners.append((name, listener))

    def emit(self, name: EventName, step: int, fields: Mapping[str, JsonValue]) -> None:
        """Write one event with its own ``fields``; numbers that are not finite become null.

        Raises DiskError; then no part of the line is left in the file.
        """
        self.last_step = step
        event = Event(
            name=name,
            step=step,
            seq=self._seq + 1,
            t_s=round(time.monotonic() - self._started_s, 3),
            data={key: _finite(value) for key, value in fields.items()},
        )
        self._append(event.as_line())
        self._seq += 1
        for each in tuple(self._listeners):
            if each in self._listeners:  # a nested warning event may have removed it
                self._call(each, event)

    def _append(self, line: bytes) -> None:
        descriptor = self._file.fileno()
        with writing(self._path):
            size_bytes = os.fstat(descriptor).st_size
            try:
                done = 0
                while done < len(line):
                    done += self._file.write(line[done:])
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size_bytes)
                raise

    def warn(self, code: str, message: str) -> None:
        """Emit a warning event at the step of the newest event."""
        self.emit("warning", self.last_step, {"code": code, "message": message})

    def _call(self, listener: tuple[str, Listener], event: Event) -> None:
        name, call = listener
        try:
            call(event)
        except Exception as error:  # noqa: BLE001 - a listener must not end the training
            self._listeners.remove(listener)
            why = f"{name} failed and gets no more events: {error_in_words(error)}"
            self.warn("listener_failed", why)


class EventReader:
    """Follows an event file while another process appends to it; reads complete lines only."""

    def __init__(self, path: Path, *, on_unreadable: Callable[[bytes], None]) -> None:
        """
        Args:
            path: need not exist yet.
            on_unreadable: called with each complete line that is not an event; it is skipped.
        """
        self._path = path
        self._on_unreadable = on_unreadable
        self._offset = 0

    def new_events(self) -> Iterator[Event]:
        """The events that were completed since the last call, oldest first.

        Raises ValueError for a line longer than 4 MiB.
        """
        while lines := self._next_lines():
            for line in lines.splitlines():
                try:
                    event = parse_event(line)
                except ValueError:
                    self._on_unreadable(line)
                else:
                    yield event

    def _next_lines(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                body = file.read(_READ_BYTES)
        except FileNotFoundError:
            return b""
        whole = body[: body.rfind(b"\n") + 1]
        if not whole and len(body) == _READ_BYTES:
            raise ValueError("an event line is longer than the reader allows")
        self._offset += len(whole)
        return whole


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _repair(path: Path) -> int:
    """The number of the last complete event; an incomplete last line is removed."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return 0
    whole = body[: body.rfind(b"\n") + 1]
    if len(whole) < len(body):
        os.truncate(path, len(whole))
    return int(json.loads(whole.splitlines()[-1])["seq"]) if whole else 0
