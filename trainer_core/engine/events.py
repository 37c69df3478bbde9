"""What a training process says, one JSON object a line; the last one is its outcome."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from pydantic import JsonValue

EventName = Literal[
    "plan", "stage", "step", "eval", "checkpoint", "sample", "warning", "error",
    "finished", "stopped", "failed",
]  # fmt: skip

_VERSION: Final = 1


class EventWriter:
    """Appends events to a file; each line is handed to the kernel before ``emit`` returns."""

    def __init__(self, path: Path) -> None:
        """Goes on counting where an earlier process stopped, after cutting off a torn last line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seq = _mend(path)
        self._started_s = time.monotonic()
        self.last_step = 0
        """Of the newest event of this process."""
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
        self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self._file.flush()


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
