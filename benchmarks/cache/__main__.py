"""Measure how fast cached records come from an object store to a training process.

    python -m benchmarks.cache --output FILE [--peers PYTHON] [--cases 2000-bf16,rgw]

A local server makes 2,000 or 20,000 records of true size, by key. Ours and the peers read them in
turns, in random order. Each case adds one JSON line to FILE; after all cases, one more line gathers
the figures that have a target. ``benchmarks/README.md`` explains them.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.cache.compare import Setting, compare
from benchmarks.cache.content import Width
from benchmarks.cache.rgw import rgw

_CASES: Final[dict[str, tuple[int, Width]]] = {
    "2000-bf16": (2_000, "bf16"),
    "2000-8bit": (2_000, "8bit"),
    "20000-bf16": (20_000, "bf16"),
    "20000-8bit": (20_000, "8bit"),
}
_RGW: Final = "rgw"
_SUMMARY: Final = (
    "mb_per_s",
    "ratio_gzip",
    "ratio_webdataset",
    "ratio_streaming",
    "bytes_per_used_byte",
    "cpu_share",
    "wait_pct",
)
_SUMMARY_OF: Final = "20000-bf16"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", default="*", help=f"of {', '.join([*_CASES, _RGW])}")
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="that has webdataset and mosaicml-streaming"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="records of a measured run")
    parser.add_argument("--paced-steps", type=int, default=90, help="at three steps a second")
    parser.add_argument("--limit-mb", type=int, default=1024, help="of the scratch folder")
    parser.add_argument("--rgw-records", type=int, default=200)
    args = parser.parse_args()
    names = [*_CASES, _RGW] if args.cases == "*" else args.cases.split(",")
    if unknown := sorted(set(names) - {*_CASES, _RGW}):
        parser.error(f"no case is named {', '.join(unknown)}")
    data = args.folder / "reverie-bench-cache"
    data.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        data=data,
        scratch=data / "scratch",
        limit_bytes=args.limit_mb << 20,
        peers=args.peers,
        rounds=args.rounds,
        steps=args.steps,
        paced_steps=args.paced_steps,
    )
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        facts = {"case": name, **_machine(data)}
        started_s = time.monotonic()
        if name == _RGW:
            facts |= rgw(setting, args.rgw_records)
        else:
            facts |= compare(setting, *_CASES[name])
        facts["took_s"] = round(time.monotonic() - started_s, 1)
        found[name] = facts
        _write(args.output, facts)
    shutil.rmtree(setting.scratch, ignore_errors=True)
    if _SUMMARY_OF in found:
        figures = {each: found[_SUMMARY_OF].get(each) for each in _SUMMARY}
        _write(args.output, {"case": "summary", "of": _SUMMARY_OF, **_machine(data), **figures})


def _machine(folder: Path) -> dict[str, Any]:
    """What a figure depends on; ``load`` is what else the machine did before."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "processor": processor,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "free_disk_gb": shutil.disk_usage(folder).free >> 30,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "boto3": version("boto3"),
    }


def _write(output: Path, facts: dict[str, Any]) -> None:
    line = json.dumps(facts)
    with output.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main()
