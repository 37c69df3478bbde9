"""Measure the control plane on this machine: submitting, admission, fairness, lists, streams.

    python -m benchmarks.service --output FILE [--cases submits,lists]

PostgreSQL and Redis are those of the tests; API, dispatcher and trainers are processes of their
own, and the clients run on the same machine. Each case takes less than two minutes and adds one
JSON line to FILE.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.service.admissions import admissions
from benchmarks.service.fairness import fairness
from benchmarks.service.lists import lists
from benchmarks.service.memory import memory
from benchmarks.service.noisy import noisy
from benchmarks.service.setting import machine
from benchmarks.service.submits import submits
from benchmarks.service.watchers import watchers

CASES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "submits": submits,
    "admissions": admissions,
    "fairness": fairness,
    "noisy": noisy,
    "lists": lists,
    "watchers": watchers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default="*", help=f"of {', '.join(CASES)}")
    args = parser.parse_args()
    names = list(CASES) if args.cases == "*" else args.cases.split(",")
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no case is named {', '.join(unknown)}")
    for name in names:
        facts = {"case": name, **machine()}
        started_s = time.monotonic()
        facts |= CASES[name]()
        facts["took_s"] = round(time.monotonic() - started_s, 1)
        line = json.dumps(facts)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
