"""What faults leave behind: processes, leases, scratch folders, secrets in logs."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from services.processes.tree import started_with
from tests.faults.random.rows import RunRow
from tests.faults.random.stack import Stack
from tests.support.fleet import training_children

_HELD_WORKERS = "SELECT worker_id, run_id FROM workers WHERE run_id IS NOT NULL"
_HEARTBEATS_S = 3.0
_UNEXPECTED = ("unexpectedly", "step_failed", "sweep_failed")


def wait_for_heartbeats(conn: psycopg.Connection[Any]) -> None:
    """Wait, for a few heartbeats at most, until each worker has told that it holds no run."""
    end_s = time.monotonic() + _HEARTBEATS_S
    while conn.execute(_HELD_WORKERS).fetchone() and time.monotonic() < end_s:
        time.sleep(0.1)


def in_rows(conn: psycopg.Connection[Any], runs: Sequence[RunRow]) -> list[str]:
    """No lease, offer or occupied worker is left."""
    breaches = [f"run {run.run_id} still has a lease" for run in runs if run.is_held]
    breaches += [f"run {run.run_id} is still offered" for run in runs if run.is_offered]
    breaches += [
        f"worker {worker_id} still names run {run_id}"
        for worker_id, run_id in conn.execute(_HELD_WORKERS)
    ]
    return breaches


def on_this_machine(stack: Stack) -> list[str]:
    """After ``close``: no process of ours runs, and scratch folders are empty."""
    breaches = [f"process {pid} still trains" for pid in training_children(stack.home)]
    breaches += [
        f"process {each.pid} is left" for each in started_with("REVERIE_HOME", str(stack.home))
    ]
    places = [
        *stack.home.glob("scratch-*"),
        *([stack.small_disk / "scratch"] if stack.small_disk else []),
    ]
    for place in places:
        # Folders of killed workers are deleted when the next worker starts there.
        left = [path for path in place.glob("wrk_*/*") if path.name != "lock"]
        breaches += [f"{path} is left" for path in left]
    return breaches


def secrets_in_logs(home: Path, secrets: Iterable[str]) -> list[str]:
    """No log holds a key."""
    planted = list(secrets)
    return [
        f"{log.name} holds a secret"
        for log in sorted(home.glob("*.log"))
        if any(secret in log.read_text(errors="replace") for secret in planted)
    ]


def log_events(home: Path) -> tuple[Counter[str], list[str]]:
    """How often each event was logged, and the first lines of those nobody expects.

    How an attempt ended counts as part of its event: ``attempt_over given_up``.
    """
    counted: Counter[str] = Counter()
    unexpected: dict[str, str] = {}
    for log, logged, line in _lines(home):
        event = logged["event"]
        counted[f"{event} {logged['ended']}" if "ended" in logged else event] += 1
        if event.endswith(_UNEXPECTED):
            unexpected.setdefault(f"{log} {event}", line[-3000:])
    return counted, [f"{where}: {line}" for where, line in unexpected.items()]


def refused_steps(home: Path) -> dict[tuple[str, int], int]:
    """Run and fence of each former holder → the last step of its training process."""
    return {
        (logged["run_id"], logged["fence"]): logged["step"]
        for _, logged, _ in _lines(home)
        if logged["event"] == "events_not_stored"
    }


def _lines(home: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The name of the log, the line as JSON, and as text; lines of libraries are left out."""
    for log in sorted(home.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            try:
                logged = json.loads(line)
            except ValueError:
                continue
            if isinstance(logged, dict) and isinstance(logged.get("event"), str):
                yield log.name, logged, line
