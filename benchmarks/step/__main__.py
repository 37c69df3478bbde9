"""Time one training step, ours and the peers', on the same weights, inputs and adapter values.

    python -m benchmarks.step --output FILE [--cases '512-*,768x512-*'] [--steps 20]

HiDream-I1's true shape with random weights, on one CUDA device. A peer that runs out of memory is
a result. ``--tiny`` runs the same code on a miniature, on a CPU. benchmarks/README.md names the
groups of cases.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.step.cases import BOTH, select
from benchmarks.step.measure import Failure
from benchmarks.step.report import table, write
from benchmarks.step.run import Row, run
from benchmarks.step.setting import tiny_setting, true_setting


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default="*", metavar="PATTERNS", help="names, with commas and *")
    parser.add_argument("--steps", type=int, default=20, help="steps of ours that count")
    parser.add_argument(
        "--peers", choices=("both", *BOTH, "none"), default="both", help="which peers are timed"
    )
    parser.add_argument("--profile", action="store_true", help="add the kernels of one step")
    parser.add_argument("--tiny", action="store_true", help="a miniature on the CPU")
    args = parser.parse_args()
    setting = tiny_setting() if args.tiny else true_setting()
    peers = {"both": BOTH, "none": ()}.get(args.peers, (args.peers,))

    def report(rows: Sequence[Row]) -> None:
        write(args.output, rows, setting)

    rows = run(
        select(args.cases),
        setting,
        steps=args.steps,
        peers=peers,
        profile=args.profile,
        report=report,
    )
    print("\n".join(table(rows, setting)))
    results = [result for row in rows for result in (row.ours, *row.peers.values())]
    errors = [each for each in results if isinstance(each, Failure) and not each.out_of_memory]
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
