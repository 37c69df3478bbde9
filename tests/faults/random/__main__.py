"""``python -m tests.faults.random --seed N``: the whole service under random faults, then a check.

Prints the schedule, one line a fault, and the line that reports everything. Exit status: 0 when no
promise was broken, 1 otherwise. The folder of the logs is kept where something broke.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.planted import FENCE, LEASE, PlantedBug, copy_with
from tests.faults.random import audit, check, leftovers, rows, stored
from tests.faults.random.faults import inject
from tests.faults.random.load import INTERVAL, STEPS, Load, wait_drained
from tests.faults.random.schedule import Fault, make_schedule
from tests.faults.random.stack import Stack, running_stack, wait_for_server
from tests.support.objects import open_bucket

_DRAIN_S = 240
_PRINTED = 20
"""Most breaches that are printed."""
_BUGS = {"fence": FENCE, "lease": LEASE}


@dataclass(kw_only=True)
class Report:
    """What came out; ``line`` prints it."""

    seed: int
    facts: dict[str, object] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)

    def add(self, name: str, breaches: Sequence[str]) -> None:
        """Count these breaches under a name of the line."""
        self.facts[name] = len(breaches)
        self.breaches += [f"{name}: {each}" for each in breaches]

    def line(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"faults seed={self.seed} {facts}"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.random", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=90, help="how long faults are injected")
    parser.add_argument("--bug", choices=sorted(_BUGS), help="plant a bug: the check must find it")
    args = parser.parse_args(argv)
    if args.bug is not None:
        return _run_in_copy(_BUGS[args.bug], args.seed, args.seconds)
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    report = run(home, args.seed, args.seconds)
    for breach in report.breaches[:_PRINTED]:
        print(f"BREACH {breach}")
    if len(report.breaches) > _PRINTED:
        print(f"and {len(report.breaches) - _PRINTED} more")
    print(report.line(), flush=True)
    if report.breaches:
        print(f"the logs are in {home}")
        return 1
    shutil.rmtree(home)
    return 0


def _run_in_copy(bug: PlantedBug, seed: int, seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="faults-bug-") as folder:
        copy_with(bug, Path(folder))
        command = [sys.executable, "-m", "tests.faults.random"]
        done = subprocess.run(
            [*command, "--seed", str(seed), "--seconds", str(seconds)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            check=False,
        )
    return done.returncode


def run(home: Path, seed: int, seconds: float) -> Report:
    """Faults for some seconds, then quiet, then the check."""
    started_s = time.monotonic()
    report = Report(seed=seed)
    schedule = make_schedule(seed, seconds)
    for fault in schedule:
        print(f"planned {fault.at_s:5.1f} s {fault.kind} ({fault.duration_s:g} s)")
    with running_stack(home) as stack:
        load = Load(stack, seed)
        load.train_unbroken()
        print(f"{time.monotonic() - started_s:.0f} s: the unbroken runs are trained", flush=True)
        not_fired = _under_faults(stack, load, schedule)
        drained_s = wait_drained(stack, _DRAIN_S)
        report.facts |= {"faults": len(schedule), "fired": len(schedule) - len(not_fired)}
        _check(report, stack, load)
        report.facts |= {"restarts": stack.restarts}
        report.facts["drain_s"] = "never" if drained_s is None else f"{drained_s:.1f}"
        if drained_s is None:
            report.breaches.append(f"not drained {_DRAIN_S} s after the last fault")
        load.close()
        stayed = stack.close()
        report.add(
            "left", [*leftovers.on_this_machine(stack), *(f"{n} ignored SIGTERM" for n in stayed)]
        )
    report.facts["wall_s"] = f"{time.monotonic() - started_s:.0f}"
    return report


def _under_faults(stack: Stack, load: Load, schedule: Sequence[Fault]) -> list[Fault]:
    """Inject the schedule while tenants submit; returns the faults that met nothing."""
    end = threading.Event()
    submitter = threading.Thread(target=load.submit_until, args=(end,), name="tenants")
    submitter.start()
    not_fired: list[Fault] = []
    started_s = time.monotonic()

    def act(fault: Fault) -> None:
        try:
            reason = inject(stack, fault)
        except Exception as error:  # noqa: BLE001 - counts as not fired
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            not_fired.append(fault)
        now_s = time.monotonic() - started_s
        print(f"{now_s:7.1f} s {fault.kind}: {reason or 'done'}", flush=True)

    threads = []
    for fault in schedule:
        time.sleep(max(0.0, fault.at_s - (time.monotonic() - started_s)))
        threads.append(threading.Thread(target=act, args=(fault,), name=fault.kind))
        threads[-1].start()
    for thread in threads:
        thread.join()
    end.set()
    wait_for_server(stack)
    submitter.join()
    return not_fired


def _check(report: Report, stack: Stack, load: Load) -> None:
    with stack.database() as conn:
        leftovers.wait_for_heartbeats(conn)
        runs, attempts, folders = rows.runs(conn), rows.attempts(conn), rows.folders(conn)
        entries = audit.entries(conn)
        left = leftovers.in_rows(conn, runs)
    os.environ.update(stack.bucket.env)  # S3 clients read credentials only from there
    configs, store = load.all_runs(), open_bucket(stack.bucket)
    report.facts["runs"] = len(runs)
    report.add("lost", check.lost(runs, configs))
    report.add("healthy_failed", check.healthy_failed(runs))
    report.add("submitted_twice", check.submitted_twice(runs))
    report.add("unanswered", load.errors)
    report.add("committed_twice", check.committed_twice(runs, entries))
    report.add("accepted_stale", check.stale_writes(entries))
    report.add("resumed_elsewhere", check.resumed_elsewhere(entries, attempts))
    local, torn = stored.fetch_all(store, folders, stack.home / "fetched")
    report.add("torn", torn)
    equal, compared, differing = stored.differing(runs, folders, local, configs, load.unbroken)
    report.facts["bit_equal"] = f"{equal}/{compared}"
    report.add("different", differing)
    report.add("unnamed", stored.unnamed(stack.database_url, store, runs, folders))
    report.add("leases", left)
    report.add(
        "secrets",
        leftovers.secrets_in_logs(
            stack.home, [*load.keys, *stack.secrets.values(), stack.bucket.secret_key]
        ),
    )
    counted, unexpected = leftovers.log_events(stack.home)
    report.facts["given_up"] = counted["attempt_over given_up"]
    report.add("unexpected_errors", unexpected)
    report.facts["claims_over_https"] = check.claims_over_https(entries)
    _count_steps(report, attempts, counted["attempt_started"], len(runs))
    overlap = check.overlap_steps(attempts, leftovers.refused_steps(stack.home))
    report.facts |= {
        "overlap_steps": sum(overlap.values()),
        "refused_writes": counted["write_refused"],
    }


def _count_steps(
    report: Report, attempts: Sequence[rows.AttemptRow], started: int, num_runs: int
) -> None:
    lost = check.steps_lost(attempts)
    killed, stopped = lost["kill"], lost["term"]
    trained = sum(each.last_step - each.from_step for each in attempts)
    report.facts |= {
        "claims": len(attempts),
        "attempts_started": started,
        "lost_steps(kill)": f"max={max(killed, default=0)} "
        f"mean={sum(killed) / max(1, len(killed)):.1f} K={INTERVAL}",
        "lost_steps(term)": f"max={max(stopped, default=0)}",
        "extra_steps": f"{100 * (trained / max(1, num_runs * STEPS) - 1):.1f}%",
    }
    if max(stopped, default=0) > 1:
        report.breaches.append(f"SIGTERM cost {max(stopped)} steps")
    if max(killed, default=0) > 2 * INTERVAL:
        report.breaches.append(f"a kill cost {max(killed)} steps, over twice {INTERVAL}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
