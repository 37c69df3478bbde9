"""Time a start, from the start of the process to its first step: ours and SimpleTuner's.

    python -m benchmarks.start --folder DIR [--layers 48] [--precision 8bit] [--cases …]

DIR takes a base model of HiDream-I1's shapes with random weights: 34 GB, and 18 GB more for the
8-bit weights that a run keeps. ``--layers`` makes it smaller. Each case is a process of its own, on
random data that is cached already, and gets a JSON line: the seconds of each part, and the total.

- ``published``: nothing is kept yet, compiled kernels neither; the 8-bit weights are kept.
- ``kept-cold``: kept weights, not in the page cache; ``published-cold`` the same of published ones.
- ``warm``: kept weights in the page cache, kernels compiled.
- ``simpletuner``, ``diffusers``: their transformer, with the files in the page cache; ``-cold``
  after a name: without.

Only weight files leave the page cache in a cold case; libraries stay in it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.start.folder import Setting, await_kept, forget_pages, make_base, make_job
from trainer_core.hidream.quiet import quieten_libraries

CASES: Final = ("published", "published-cold", "kept-cold", "warm", "simpletuner", "diffusers",
                "simpletuner-cold", "diffusers-cold")  # fmt: skip
_DEFAULT: Final = "published-cold,kept-cold,warm,warm"
_DEADLINE_S: Final = 900
_STEPS: Final = 1000
"""More than are taken: the process is ended after its first step."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--layers", type=int, default=48, metavar="N", help="blocks, at least 2")
    parser.add_argument("--tiny", action="store_true", help="the tiny model, also on a CPU")
    parser.add_argument("--edge-px", type=int, default=1024, metavar="PX")
    parser.add_argument("--precision", choices=("8bit", "bf16"), default="8bit")
    parser.add_argument("--cases", default=_DEFAULT, help=f"of {', '.join(CASES)}")
    args = parser.parse_args()
    setting = Setting(
        folder=args.folder.absolute(),
        layers=None if args.tiny else args.layers,
        sizes_px=((args.edge_px, args.edge_px),),
        precision=args.precision,
        # A picture before the first step is no part of a start.
        options={"max_train_steps": _STEPS, "disable_benchmark": True},
    )
    names = args.cases.split(",")
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no case is named {', '.join(unknown)}")
    quieten_libraries()
    started_s = time.monotonic()
    make_base(setting)
    job = make_job(setting, setting.folder)
    _print({"case": "make", "total_s": round(time.monotonic() - started_s, 1)})
    for name in names:
        _print(_run(name, setting, job))
    return 0


def _run(name: str, setting: Setting, job: Path) -> dict[str, Any]:
    if name.startswith("published"):
        shutil.rmtree(setting.node_cache.folder, ignore_errors=True)
    if name.endswith("-cold"):
        forget_pages(setting.folder)
    facts = {
        "case": name,
        "layers": setting.layers,
        "edge_px": setting.sizes_px[0][0],
        "precision": setting.precision,
    }
    if name.startswith(("simpletuner", "diffusers")):
        return facts | _peer(name.removesuffix("-cold"), setting)
    return facts | _ours(setting, job)


def _ours(setting: Setting, job: Path) -> dict[str, Any]:
    """Start the trainer as a supervisor does, and end it after its first step."""
    events = setting.folder / "events.jsonl"
    events.unlink(missing_ok=True)
    command = [sys.executable, "-m", "trainer_core", "train", "--job", str(job)]
    log = setting.folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--events", str(events)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            weights = _wait(process, events, "plan")
            started = _wait(process, events, "stage", "timings")
            if weights["weights"] == "published":  # the next case finds them kept
                await_kept(setting.node_cache)
        except (_EndedError, TimeoutError) as error:
            return {"error": f"{error}: {log.read_text(errors='replace')[-400:]}"}
        finally:
            process.kill()
            process.wait()
    return {"weights": weights["weights"], **started["timings"]}


class _EndedError(Exception):
    """The process ended, or took too long, before the event."""


def _wait(
    process: "subprocess.Popen[bytes]", events: Path, name: str, field: str = "event"
) -> dict[str, Any]:
    """The first event of this name that has the field."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline_s:
        is_over = process.poll() is not None
        body = events.read_bytes() if events.exists() else b""
        for line in body[: body.rfind(b"\n") + 1].splitlines():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name and field in event:
                return event
            if event["event"] == "failed":
                raise _EndedError(event["message"])
        if is_over:
            break
        time.sleep(0.02)
    raise _EndedError(f"no event {name}")


def _peer(name: str, setting: Setting) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.start.peer", "--base", str(setting.base)]
    command += ["--name", name, "--precision", setting.precision]
    command += ["--edge-px", str(setting.sizes_px[0][0])]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    if done.returncode:
        return {"error": done.stderr[-400:]}
    timings: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return timings


def _print(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
