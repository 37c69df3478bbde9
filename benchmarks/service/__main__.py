"""Measure the control plane on this machine: submitting, admission, fairness, lists, streams.

    python -m benchmarks.service --output FILE [--cases submits,lists]

PostgreSQL and Redis are those of the tests; API, dispatcher and trainers are processes of their
own, and the clients run on the same machine. Each case takes up to two and a half minutes and adds
one JSON line to FILE. After all cases, one more line gathers the figures that have a target.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.service.admissions import admissions
from benchmarks.service.fairness import fairness
from benchmarks.service.lists import lists
from benchmarks.service.memory import SECONDS, memory
from benchmarks.service.noisy import noisy
from benchmarks.service.setting import machine
from benchmarks.service.submits import submits
from benchmarks.service.watchers import watchers

CASES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "submits": submits,
    "admissions": admissions,
    "fairness": partial(fairness, 0.1, 0.1),
    "fairness_mixed": partial(fairness, 0.05, 0.15),
    "noisy": noisy,
    "lists": lists,
    "watchers": watchers,
    "memory": memory,
}
_SUMMARY: Final = {
    "submits": ("submits_per_s", "p99_ms", "p99_ms_redis_down"),
    "admissions": ("admissions_per_s",),
    "fairness": ("fair_share_error", "light_start_after"),
    "noisy": ("noisy_p99_ms", "api_pss_mb"),
    "lists": ("list_ms", "list_bytes"),
    "watchers": ("sse_gaps", "sse_repeats"),
    "memory": ("growth_kb_per_run",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default="*", help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--memory-s", type=float, default=SECONDS, metavar="SECONDS", help="length of case memory"
    )
    args = parser.parse_args()
    cases = {**CASES, "memory": partial(memory, args.memory_s)}
    names = list(CASES) if args.cases == "*" else args.cases.split(",")
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no case is named {', '.join(unknown)}")
    summary: dict[str, Any] = {"case": "summary", **machine()}
    for name in names:
        facts = {"case": name, **machine()}
        started_s = time.monotonic()
        facts |= cases[name]()
        facts["took_s"] = round(time.monotonic() - started_s, 1)
        summary |= {figure: facts[figure] for figure in _SUMMARY.get(name, ())}
        _write(args.output, facts)
    if names == list(CASES):
        _write(args.output, summary)


def _write(output: Path, facts: dict[str, Any]) -> None:
    line = json.dumps(facts)
    with output.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main()
