"""The bare step of a job: the same models, plan and graph, on one batch that stays on the device.

    python -m benchmarks.whole_run.bare --job job.json

No feeding, no events, no checkpoints. Prints one JSON line: ``Timing`` of 50 steps after 5.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.start.folder import await_kept
from benchmarks.step.measure import time_steps
from benchmarks.step.ours import Launching
from trainer_core.data.orders import sampler_of
from trainer_core.engine.determinism import set_determinism
from trainer_core.engine.setup import load_run
from trainer_core.process.control import Control
from trainer_core.process.cublas import fix_workspace
from trainer_core.process.job import read_job

_WARM_UP: Final = 5
_LEAST: Final = 5
_MOST: Final = 50
_BUDGET_S: Final = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    job = read_job(parser.parse_args().job)
    fix_workspace(job.plan.operation, os.environ)
    set_determinism(os.environ, job.plan.operation)
    loaded = load_run(job, Control(None))
    identity = job.plan.identity
    first = sampler_of(identity, job.index).micro_batch(0)
    timing = time_steps(
        Launching(loaded.backend, identity.optimizer.learning_rate),
        loaded.batches.training(first).to(loaded.network.compute.device),
        warm_up=_WARM_UP,
        least=_LEAST,
        most=_MOST,
        budget_s=_BUDGET_S,
    )
    if loaded.weights == "published" and job.node_cache is not None:
        await_kept(job.node_cache)  # so that the run need not make them
    print(json.dumps(asdict(timing)), flush=True)


if __name__ == "__main__":
    main()
