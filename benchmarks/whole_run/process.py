"""Runs the trainer as a supervisor does, and follows its events."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trainer_core.process.cuda_memory import let_segments_grow
from trainer_core.process.events import OUTCOMES, Event, EventReader
from trainer_core.process.job import read_job
from trainer_core.process.node_cache import keep_kernels

_TRAINER: Final = ("trainer_core", "train")
_DEADLINE_S: Final = 1800
_POLL_S: Final = 0.05
_TOLD_EVERY: Final = 25


class RunFailedError(Exception):
    """A process did not do what it was started for; says why, with the end of its output."""


def train(job: Path, module: Sequence[str] = _TRAINER) -> list[Event]:
    """Train a job to its end in a process of its own; its events.

    Args:
        job: the job's file. Events and output are written beside it.
        module: what python's ``-m`` is given; it takes ``--job`` and ``--events``.

    Tells on stderr how far it is. Raises RunFailedError.
    """
    file, log = job.with_name("events.jsonl"), job.with_name("output.log")
    command = [sys.executable, "-m", *module, "--job", str(job), "--events", str(file)]
    reader = EventReader(file, on_unreadable=_refuse)
    events: list[Event] = []
    deadline_s = time.monotonic() + _DEADLINE_S
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment_of(job), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            is_over = False
            while not is_over and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
                # Asked first: what is written before the end is read after it.
                is_over = process.poll() is not None
                for event in reader.new_events():
                    events.append(event)
                    _tell(job.parent.name, event)
        finally:
            process.kill()
            process.wait()
    last = events[-1] if events else None
    if last is None or last.name != "finished" or process.returncode:
        why = last.data.get("message") if last is not None and last.name in OUTCOMES else None
        raise RunFailedError(f"{why or 'no outcome'}: {end_of(log)}")
    return events


def environment_of(job: Path) -> dict[str, str]:
    """Variables that the trainer sets itself, before it imports torch; other programs do not."""
    env = dict(os.environ)
    keep_kernels(read_job(job).node_cache, env)
    let_segments_grow(env)
    return env


def end_of(log: Path) -> str:
    """The last lines of a process's output."""
    return log.read_text(errors="replace")[-600:]


def tell(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def _tell(run: str, event: Event) -> None:
    match event.name:
        case "step":
            if event.step % _TOLD_EVERY == 0:
                tell(f"{run}: {event.t_s:.1f} s: step {event.step}, loss {event.data['loss']}")
        case "warning":
            tell(f"{run}: {event.t_s:.1f} s: warning: {event.data.get('message')}")
        case _:
            tell(f"{run}: {event.t_s:.1f} s: {event.name} {event.data.get('stage', '')}")


def _refuse(line: bytes) -> None:
    raise ValueError(f"the trainer wrote {line[:200]!r}, which is not an event")
