"""Whole runs of the trainer on cache entries of true size: speed, memory, waits, resume.

    python -m benchmarks.whole_run --folder DIR --output FILE [--cases speed,memory] [--layers 48]

DIR takes a base model of HiDream-I1's shapes with random weights (34 GB, written once, and 18 GB
more for kept 8-bit weights) and the runs. Each run is a process that is started as a supervisor
does. Each case adds a JSON line to FILE; stderr tells how far a run is.

- ``speed``: 200 steps on 64 pictures, each reported, with a checkpoint, against the bare step.
- ``memory``: 500 steps over buckets of all sizes: how much more memory later ones use.
- ``no-sync``: 50 steps in which CUDA refuses every wait of the host for the device.
- ``resume``: 40 steps in the deterministic mode, against 20 and 20 with a resume between, bit by
  bit; and without the mode, for its cost.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.start.folder import Setting, make_base
from benchmarks.step.card import card_of
from benchmarks.step.measure import free_memory
from benchmarks.trainer_matrix import environment
from benchmarks.whole_run.cases import CASES
from benchmarks.whole_run.process import RunFailedError, tell
from trainer_core.errors import TrainerError
from trainer_core.hidream.quiet import quieten_libraries

_SIZES: Final = "1024x1024,1152x896,832x1216,768x768,768x512,512x512"
_PICTURES: Final = 64


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default="speed", help=f"of {', '.join(CASES)}")
    parser.add_argument("--layers", type=int, default=48, metavar="N", help="blocks, at least 2")
    parser.add_argument("--tiny", action="store_true", help="the tiny model, also on a CPU")
    parser.add_argument("--precision", choices=("8bit", "bf16", "fp32"), default="8bit")
    parser.add_argument("--text-cache", choices=("no_change", "fp8"), default="no_change")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument(
        "--sizes", default=_SIZES, help="WIDTHxHEIGHT,… in px; all but memory take the first"
    )
    parser.add_argument("--steps", type=int, help="other numbers of steps; multiples of 4")
    parser.add_argument("--card-gib", type=float, metavar="N", help="memory of the card")
    args = parser.parse_args(arguments)
    names = args.cases.split(",")
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no case is named {', '.join(unknown)}")
    setting = Setting(
        folder=args.folder.absolute(),
        layers=None if args.tiny else args.layers,
        sizes_px=tuple(_size_px(text) for text in args.sizes.split(",")),
        precision=args.precision,
        pictures=_PICTURES,
        options={
            "gradient_checkpointing": args.checkpointing,
            "text_cache_precision": args.text_cache,
        },
    )
    quieten_libraries()
    started_s = time.monotonic()
    tell("base: is written, unless it is there")
    make_base(setting)
    free_memory()  # of the card, on which the weights were drawn
    os.sync()  # not while steps are timed
    seconds = round(time.monotonic() - started_s, 1)
    _write(args.output, {"case": "make", "total_s": seconds, "machine": environment()})
    failed = 0
    for name in names:
        with card_of(args.card_gib):
            line = _line(name, setting, args.steps)
        failed += "error" in line
        _write(args.output, {"card_gib": args.card_gib, **line})
    return 1 if failed else 0


def _line(name: str, setting: Setting, wanted_steps: int | None) -> dict[str, Any]:
    case = CASES[name]
    steps = wanted_steps or case.steps
    if not case.mixes_sizes:
        setting = replace(setting, sizes_px=setting.sizes_px[:1])
    facts = {
        "case": name,
        "layers": setting.layers,
        "precision": setting.precision,
        "checkpointing": setting.options["gradient_checkpointing"],
        "text_cache": setting.options["text_cache_precision"],
        "sizes_px": setting.sizes_px,
        "last_step": steps,
    }
    started_s = time.monotonic()
    try:
        found = case.measure(setting, steps)
    except (RunFailedError, TrainerError) as error:
        found = {"error": str(error)}
    return facts | found | {"case_s": round(time.monotonic() - started_s, 1)}


def _size_px(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def _write(output: Path, line: dict[str, Any]) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    with output.open("a") as file:
        file.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
