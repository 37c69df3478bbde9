"""A step of an adapter on each GPU alone, and shared by all GPUs of a machine.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.ranks --output ranks.jsonl [--cases …]

Each rank takes one micro-batch a step, so `scaling` is 1 where the exchange costs nothing: the
seconds of a step alone, on all GPUs at once, divided by those of a shared one. `sum_s` is the sum
of the gradients by itself. `--tiny` tries it on a CPU.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.step.cases import Case, select
from benchmarks.step.measure import Timing, free_memory, time_steps
from benchmarks.step.ours import Ours
from benchmarks.step.plans import plan_of
from benchmarks.step.setting import Setting, tiny_setting, true_setting
from benchmarks.trainer_matrix import environment
from trainer_core.engine.ranks import Ranks
from trainer_core.process.own_card import see_own_card

_CASES: Final = "1024-8bit,1024-bf16,512-8bit"
_WARM_UP: Final = 5
_BUDGET_S: Final = 60.0


def measure(case: Case, setting: Setting, ranks: Ranks, steps: int) -> dict[str, Any]:
    """Every rank calls it; each has its own seconds of the steps alone."""
    alone, _ = _timed(case, setting, None, steps)
    together, elements = _timed(case, setting, ranks, steps)
    return {
        "case": case.name,
        "ranks": ranks.count,
        "alone": asdict(alone),
        "together": asdict(together),
        "scaling": round(alone.step_s / together.step_s, 4),
        "gradient_bytes": 4 * elements,
        "sum_s": _sum_s(torch.zeros(elements, device=setting.device), ranks, steps),
    }


def _timed(case: Case, setting: Setting, ranks: Ranks | None, steps: int) -> tuple[Timing, int]:
    """The steps' seconds, and how many elements the flat gradient has."""
    ours = Ours(case, setting, ranks)
    free_memory()
    timing = time_steps(
        ours, setting.batch(case), warm_up=_WARM_UP, least=steps, most=steps, budget_s=_BUDGET_S
    )
    assert ours.network.flat is not None
    elements = ours.network.flat.leaves[0].numel()
    del ours
    free_memory()
    return timing, elements


def _sum_s(gradient: torch.Tensor, ranks: Ranks, times: int) -> float:
    """Median seconds of one sum, between two that all ranks have begun together."""
    seconds = []
    for _ in range(times):
        ranks.max(0)
        start_s = time.perf_counter()
        ranks.add_up(gradient)
        if gradient.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default=_CASES, help="patterns of names, with commas")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="a miniature on the CPU")
    args = parser.parse_args(argv)
    cases = select(args.cases)
    setting = tiny_setting() if args.tiny else true_setting()
    see_own_card(plan_of(cases[0], setting).operation, os.environ)
    ranks = Ranks(setting.device)
    for case in cases:
        row = measure(case, setting, ranks, args.steps)
        if ranks.rank == 0:
            print(row, flush=True)
            with args.output.open("a") as output:
                output.write(json.dumps({**row, "machine": environment()}) + "\n")
    ranks.leave()


if __name__ == "__main__":
    main()
