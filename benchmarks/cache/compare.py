"""One case: ours and the peers in turns on the same records."""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cache.bucket import Server, limit_mb_per_s, serving
from benchmarks.cache.content import Content, Width, made
from benchmarks.cache.watching import Watched

OURS: Final = "ours"
_PEERS: Final = {
    "gzip": None,
    "webdataset": ("webdataset", "webdataset"),
    "streaming": ("streaming", "mosaicml-streaming"),
}
"""Reader → the module that it imports, and its distribution."""
_WARM: Final = 5
"""Steps before the measured ones, besides those that fill the folder."""
STEP_S: Final = 1 / 3
_RESUMED_STEPS: Final = 10
_ENV: Final = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "OMP_NUM_THREADS": "1",
}
Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all cases share."""

    data: Path
    scratch: Path
    limit_bytes: int
    peers: Path | None
    rounds: int
    steps: int
    paced_steps: int


class Bench:
    """Runs readers against one server."""

    def __init__(
        self, setting: Setting, server: Server, content: Content, records: int, **env: str
    ) -> None:
        self._setting = setting
        self._server = server
        self._content = content
        self._records = records
        self._env = {**_ENV, **env, "PYTHONPATH": str(Path.cwd())}

    def measured(self, reader: str, *, steps: int, step_s: float = 0.0) -> Run:
        """One run of a reader to its end; a line on standard error says how it went."""
        started_s = time.monotonic()
        fit = 0 if step_s else self._setting.limit_bytes // self._content.record_bytes
        with self._started(reader, steps=steps, step_s=step_s, warm=fit + _WARM) as watched:
            sent_before = self._server.sent_bytes()
            first = watched.next_mark("first")
            watched.go_on()
            watched.next_mark("warm")
            cpu_s, sent_warm = watched.cpu_s(), self._server.sent_bytes()
            watched.go_on()
            end = watched.next_mark("end")
            cpu_s, sent_end = watched.cpu_s() - cpu_s, self._server.sent_bytes()
            watched.go_on()
            closed = watched.next_mark("closed")
            sent_closed = self._server.sent_bytes()
            watched.go_on()
        took_s, waited_s = end["took_s"], sum(end["waits_s"])
        used = steps * self._content.record_bytes
        run = {
            "mb_per_s": used / took_s / 1e6,
            "samples_per_s": steps / took_s,
            "cpu_share": cpu_s / took_s,
            "cpu_s_per_gb": cpu_s / (used / 1e9),
            "wait_pct": 100 * waited_s / took_s,
            "longest_wait_s": max(end["waits_s"]),
            "first_batch_s": first["since_opened_s"],
            "sent_per_used_byte": (sent_end - sent_warm) / used,
            "scratch_high_water_bytes": watched.highest_bytes,
            "ids": end["ids"],
        }
        if "unused_bytes" in closed:
            read_ahead = closed["unused_bytes"]
            used_of_all = len(set(end["ids"])) * self._content.record_bytes
            sent = sent_closed - sent_before - read_ahead
            run |= {"bytes_per_used_byte": sent / used_of_all, "read_ahead_bytes": read_ahead}
        pace = "at three steps a second" if step_s else "without pause"
        print(
            f"{reader}, {steps} steps {pace}: {run['mb_per_s']:.0f} MB/s, "
            f"took {time.monotonic() - started_s:.0f} s with its start",
            file=sys.stderr,
            flush=True,
        )
        return run

    def resumed(self, reader: str, expected: Sequence[int], step: int) -> Run:
        """Kill a run after ``step`` steps, and go on there in a new process and folder."""
        with self._started(reader, steps=step, warm=0) as watched:
            for mark in ("warm", "first"):
                watched.next_mark(mark)
                watched.go_on()
            watched.next_mark("end")
            watched.kill()
        with self._started(reader, steps=_RESUMED_STEPS, warm=0, from_step=step) as watched:
            watched.next_mark("warm")
            watched.go_on()
            first = watched.next_mark("first")
            watched.go_on()
            ids = watched.next_mark("end")["ids"]
        return {
            "step": step,
            "same_ids": ids == list(expected[step : step + _RESUMED_STEPS]),
            "first_batch_s": round(first["since_opened_s"], 3),
        }

    @contextmanager
    def _started(
        self, reader: str, *, steps: int, warm: int, step_s: float = 0.0, from_step: int = 0
    ) -> Iterator[Watched]:
        setting = self._setting
        setting.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=setting.scratch))
        arguments = {
            "data": setting.data,
            "folder": folder,
            "limit-bytes": setting.limit_bytes,
            "endpoint": self._server.endpoint,
            "width": self._content.width,
            "records": self._records,
            "warm": warm,
            "steps": steps,
            "step-s": step_s,
            "from-step": from_step,
        }
        given = [f"--{name}={value}" for name, value in arguments.items()]
        command = [*_command(setting, reader), *given]
        env = {**self._env, "TMPDIR": str(folder)}
        try:
            with Watched(command, folder, env) as watched:
                yield watched
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def compare(setting: Setting, records: int, width: Width) -> dict[str, Any]:
    """All figures of a case."""
    content = made(setting.data, width)
    readers = [OURS, *(each for each in _PEERS if _version(setting, each) is not None)]
    with serving(setting.data, width, records) as server:
        bench = Bench(setting, server, content, records)
        limits = {
            f"server_mb_per_s_{threads}": round(limit_mb_per_s(server, content, records, threads))
            for threads in (1, 8)
        }
        runs: dict[str, list[Run]] = {reader: [] for reader in readers}
        failures: list[str] = []
        for turn in range(setting.rounds):
            first = turn % len(readers)
            for reader in readers[first:] + readers[:first]:
                with _noting(failures, reader):
                    runs[reader].append(bench.measured(reader, steps=setting.steps))
        paced: dict[str, Run] = {}
        for reader in readers:
            with _noting(failures, reader):
                paced[reader] = bench.measured(reader, steps=setting.paced_steps, step_s=STEP_S)
        step = random.randrange(5, setting.steps - _RESUMED_STEPS)  # noqa: S311 - a place, no secret
        resume = bench.resumed(OURS, runs[OURS][0]["ids"], step)
    speeds = {reader: _median(each, "mb_per_s") for reader, each in runs.items() if each}
    return {
        "records": records,
        "record_bytes": content.record_bytes,
        "gzip_leaves": round(content.zipped_share, 3),
        **limits,
        **figures(runs[OURS]),
        **{
            f"ratio_{peer}": round(speeds[OURS] / speeds[peer], 3) if peer in speeds else None
            for peer in _PEERS
        },
        "same_ids_each_run": all(run["ids"] == runs[OURS][0]["ids"] for run in runs[OURS]),
        **paced_figures(paced[OURS]),
        "scratch_bound_bytes": setting.limit_bytes,
        "resume": resume,
        "peers": {
            peer: {
                "version": _version(setting, peer),
                **(figures(runs[peer]) if runs[peer] else {}),
                **(paced_figures(paced[peer]) if peer in paced else {}),
            }
            for peer in readers[1:]
        },
        "failures": failures,
        "skipped": sorted(set(_PEERS) - set(readers)),
    }


@contextmanager
def _noting(failures: list[str], reader: str) -> Iterator[None]:
    """A peer's run may fail, for example because it gives the wrong record. Ours may not."""
    try:
        yield
    except RuntimeError as error:
        if reader == OURS:
            raise
        failures.append(f"{reader}: {error}")


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians, and the spread of the speed."""
    names = ["samples_per_s", "cpu_share", "cpu_s_per_gb", "first_batch_s", "sent_per_used_byte"]
    names += [each for each in ("bytes_per_used_byte", "read_ahead_bytes") if each in runs[0]]
    return {
        "mb_per_s": round(_median(runs, "mb_per_s"), 1),
        "mb_per_s_of_each": [round(run["mb_per_s"], 1) for run in runs],
        **{name: round(_median(runs, name), 3) for name in names},
        "scratch_high_water_bytes": max(run["scratch_high_water_bytes"] for run in runs),
    }


def paced_figures(run: Run) -> dict[str, Any]:
    """Of a run at three steps a second."""
    return {
        "wait_pct": round(run["wait_pct"], 3),
        "longest_wait_s": round(run["longest_wait_s"], 3),
        "paced_cpu_share": round(run["cpu_share"], 3),
    }


def _median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def _command(setting: Setting, reader: str) -> list[str]:
    if reader == OURS:
        return [sys.executable, "-m", "benchmarks.cache.ours"]
    return [_python(setting, reader), "-m", "benchmarks.cache.peers", f"--peer={reader}"]


def _python(setting: Setting, peer: str) -> str:
    own = _PEERS[peer] is None or setting.peers is None
    return sys.executable if own else os.fspath(setting.peers or "")


def _version(setting: Setting, peer: str) -> str | None:
    """Of the library that the peer needs; None where it is not installed or cannot be imported."""
    library = _PEERS[peer]
    if library is None:
        return "torch.load of gzip, as SimpleTuner 4.10"
    module, distribution = library
    code = (
        f"import {module}; from importlib.metadata import version; print(version({distribution!r}))"
    )
    try:
        done = subprocess.run(
            [_python(setting, peer), "-c", code], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
