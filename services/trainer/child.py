"""The training process: started in a session of its own, watched by its event file, told by a word.

It knows no run, tenant, token or store. Standard output belongs to libraries and goes to a log
file; what counts is the event file, one JSON object a line, and its last event is the outcome.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog

from services.processes.children import environment_for_child, kill_tree
from trainer_core.process.supervision import current_process_token

log = structlog.get_logger(__name__)

_READ_BYTES: Final = 4 << 20
_OUTPUT_TAIL_BYTES: Final = 2000
OUTCOMES: Final = frozenset({"finished", "stopped", "failed"})


class Word(StrEnum):
    """What the control file says; the child reads it between steps."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the event file."""

    type: str
    step: int
    seq: int
    """From 1, in the order of the file."""
    data: dict[str, Any]
    """The line without ``v``, ``seq``, ``event`` and ``step``."""


class EventTail:
    """Reads an append-only file of JSON lines by offset; a torn last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """The events that were completed since the last call, oldest first."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                body = file.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        whole = body[: body.rfind(b"\n") + 1]
        if not whole and len(body) == _READ_BYTES:
            raise ValueError("an event line is longer than the reader allows")
        self._offset += len(whole)
        events = (_parse(line) for line in whole.splitlines())
        return [event for event in events if event is not None]


def _parse(line: bytes) -> Event | None:
    try:
        fields = json.loads(line)
        kind, step, seq = fields.pop("event"), fields.pop("step"), fields.pop("seq")
    except (ValueError, KeyError, AttributeError):
        log.warning("event_unreadable", size_bytes=len(line))
        return None
    if not (isinstance(kind, str) and isinstance(step, int) and isinstance(seq, int)):
        log.warning("event_unreadable", size_bytes=len(line))
        return None
    fields.pop("v", None)
    return Event(type=kind, step=step, seq=seq, data=fields)


class Child:
    """One running training process."""

    def __init__(
        self, command: Sequence[str], job: Mapping[str, Any], folder: Path, env: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            command: the program before ``train``, such as ``python -m trainer_core``.
            job: content of its job file.
            folder: an existing scratch folder of this attempt.
            env: the supervisor's environment; only what is on the allow-list goes on.
        """
        self.events = EventTail(folder / "events.jsonl")
        self._control = folder / "control"
        self._output = folder / "output.log"
        self._word = Word.RUN
        job_file = folder / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        arguments = ["train", "--job", str(job_file), "--events", str(folder / "events.jsonl")]
        arguments += ["--control", str(self._control), "--supervisor", current_process_token()]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment_for_child(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, word: Word) -> None:
        """Replace the control file, if that is a new word."""
        if word is self._word:
            return
        log.info("child_told", word=word.value)
        draft = self._control.with_suffix(".new")
        draft.write_text(word.value, encoding="utf-8")
        draft.replace(self._control)
        self._word = word

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to it and everything below it; returns when it is gone. Harmless when it is."""
        if self._process.poll() is None:
            kill_tree(self._process.pid)
            self._process.wait()

    def how_it_died(self) -> str:
        """``SIGKILL``, ``exit status 1``: for a child that left no outcome."""
        status = self._process.returncode
        if status is not None and status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}"

    def output_tail(self) -> str:
        """The end of what it printed, for the operator's log."""
        with self._output.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - _OUTPUT_TAIL_BYTES))
            return output.read().decode(errors="replace")
