"""Trains a job, and lets CUDA refuse every wait of the host for the device in 50 of its steps.

    python -m benchmarks.whole_run.no_sync --job job.json --events events.jsonl

``torch.cuda.set_sync_debug_mode("error")`` counts for all threads, so also for the one that feeds.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import torch

from trainer_core.engine.determinism import set_determinism
from trainer_core.engine.loop import run_job
from trainer_core.process.control import Control
from trainer_core.process.cublas import fix_workspace
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.job import read_job

_FIRST: Final = 10
"""The graph is captured before."""
LAST: Final = _FIRST + 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("only a CUDA device can be waited for")
    job = read_job(args.job)
    fix_workspace(job.plan.operation, os.environ)
    set_determinism(os.environ, job.plan.operation)
    with EventWriter(args.events) as events:
        events.listen("no_sync", _refuse_waits)
        run_job(job, events, Control(None))


def _refuse_waits(event: Event) -> None:
    """A listener: it is called between two steps."""
    if event.name == "step" and event.step in (_FIRST, LAST):
        torch.cuda.set_sync_debug_mode("error" if event.step == _FIRST else "default")


if __name__ == "__main__":
    main()
