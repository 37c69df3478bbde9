"""Plans for cards of common sizes, each run with the rest of the card held by another process.

    python -m benchmarks.card_plans --output plans.jsonl [--sizes 24,16] [--precision bf16]

HiDream-I1's published shape with random weights at 1024 px, LoKr on attention, gradient
checkpointing allowed. Needs a CUDA device that is larger than the largest card. The file has one
JSON line a card, written as soon as it is measured.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.step.card import card_of
from benchmarks.step.cases import Case, Precision
from benchmarks.step.measure import GIB, Failure, attempt, free_memory, time_steps
from benchmarks.step.ours import Ours
from benchmarks.step.setting import Setting, true_setting
from trainer_core.memory.cards import SIZES_GIB

_USABLE: Final = 0.97
"""Part of the memory in a card's name that a process gets, CUDA's own part included."""
_WARM_UP: Final = 3
_LEAST: Final = 4
_MOST: Final = 15
_BUDGET_S: Final = 4.0


def measure(size_gb: int, precision: Precision, setting: Setting) -> dict[str, Any]:
    """One line of the file."""
    case = Case(
        f"card-{size_gb}gb",
        (1024, 1024),
        precision,
        checkpointing=True,
        card_gib=_USABLE * size_gb,
    )
    result: dict[str, Any] = {"card_gb": size_gb, "precision": precision}
    with card_of(case.card_gib):
        found = attempt(_run, case, setting)
    free_memory()
    return result | ({"error": found.reason} if isinstance(found, Failure) else found)


def _run(case: Case, setting: Setting) -> dict[str, Any]:
    free_bytes = torch.cuda.mem_get_info()[0]
    ours = Ours(case, setting)
    assert ours.card is not None
    timing = time_steps(
        ours,
        setting.batch(case),
        warm_up=_WARM_UP,
        least=_LEAST,
        most=_MOST,
        budget_s=_BUDGET_S,
    )
    card, reserved_gib = ours.card, timing.peak_reserved_gib
    assert reserved_gib is not None
    return {
        "free_gib": round(free_bytes / GIB, 2),
        "recomputed": len(card.recomputed),
        "streams": card.streams_conditioning,
        "offloaded": len(card.offloaded),
        "keeps_transposed": card.keeps_transposed,
        "host_gib": round(card.host_bytes / GIB, 2),
        "foretold_gib": round(card.peak_bytes / GIB, 2),
        "reserved_gib": round(reserved_gib, 2),
        "off": round(reserved_gib * GIB / card.peak_bytes - 1, 4),
        "allocated_gib": round(timing.peak_gib or 0.0, 2),
        "step_s": round(timing.step_s, 4),
        "min_s": round(timing.min_s, 4),
        "max_s": round(timing.max_s, 4),
        "steps": timing.steps,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES_GIB)), metavar="GB,GB,…")
    parser.add_argument("--precision", choices=["8bit", "bf16"], default="8bit")
    args = parser.parse_args(arguments)
    setting = true_setting()
    with args.output.open("w") as file:
        for size_gb in map(int, args.sizes.split(",")):
            line = json.dumps(measure(size_gb, args.precision, setting))
            print(line, flush=True)
            file.write(f"{line}\n")
            file.flush()


if __name__ == "__main__":
    main()
