"""Time the index of very many pictures: list the folder, read headers and captions, choose crops.

`make bench-index` makes the folders and measures each size twice, each time in a process of
its own, so that the peak of its memory is its own. The line on stdout is JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.data.folder import list_files
from trainer_core.data.indexing import build_index
from trainer_core.data.survey import survey_data

SIZES: Final = (25_000, 50_000, 100_000)
_PER_FOLDER: Final = 1000
_SHAPES: Final = ((640, 480), (480, 640), (512, 512), (800, 450))
_TIMES: Final = 2

Found = TypeVar("Found")


def main(argv: Sequence[str]) -> int:
    """Measure every size, or one of them in this process (``--only``)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.indexing", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the pictures there, and use them again")
    parser.add_argument("--only", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    args = parser.parse_args(argv)
    if args.only is not None:
        print(json.dumps(measured(args.folder / str(args.only), args.only)))
        return 0
    scratch = args.folder or Path(tempfile.mkdtemp(prefix="bench-index-"))
    try:
        fill(scratch, args.sizes)
        rows = [_in_own_process(scratch, size) for size in args.sizes]
    finally:
        if args.folder is None:
            shutil.rmtree(scratch)
    print(json.dumps({"sizes": rows, "linearity": _linearity(rows)}))
    return 0


def _in_own_process(scratch: Path, size: int) -> dict[str, Any]:
    """The cheaper of two runs, each a new process on a folder that was read before."""
    command = [sys.executable, "-m", __spec__.name, "--folder", str(scratch), "--only", str(size)]
    rows = []
    for _ in range(_TIMES):
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
    best: dict[str, Any] = min(rows, key=lambda row: float(row["cpu_us_per_picture"]))
    print(json.dumps(best), file=sys.stderr)
    return best


def fill(scratch: Path, sizes: Sequence[int]) -> None:
    """A folder for each size, with links to sub-folders of 1,000 pictures and captions each.

    Pictures of one shape are links to one file, because 100,000 files take minutes to write. What
    is there from an earlier run is used again.
    """
    groups = scratch / "groups"
    groups.mkdir(parents=True, exist_ok=True)
    for group in range(-(-max(sizes) // _PER_FOLDER)):
        if not (groups / f"{group:03}").exists():
            _fill_group(groups, group)
    for size in sizes:
        (scratch / str(size)).mkdir(exist_ok=True)
        for group in range(-(-size // _PER_FOLDER)):
            link = scratch / str(size) / f"{group:03}"
            if not link.exists():
                link.symlink_to(groups / link.name, target_is_directory=True)


def _fill_group(groups: Path, group: int) -> None:
    draft = groups / f".{group:03}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    firsts = [_write_jpeg(draft / f".{n}.jpg", shape) for n, shape in enumerate(_SHAPES)]
    for n in range(_PER_FOLDER):
        (draft / f"{n:06}.jpg").hardlink_to(firsts[n % len(firsts)])
        (draft / f"{n:06}.txt").write_text(f"picture {n} of harbour {group} at dawn")
    draft.replace(groups / f"{group:03}")


def _write_jpeg(path: Path, shape: tuple[int, int]) -> Path:
    Image.linear_gradient("L").resize(shape).convert("RGB").save(path, quality=30)
    return path


def measured(folder: Path, number: int) -> dict[str, Any]:
    """Seconds of each stage, and the peak memory of this process in MiB."""
    plan = _plan()
    max_px = max_area_px(TINY_CONFIG)
    start_mib = _peak_mib()
    list_s, files = _timed(lambda: list_files(folder))
    assert len(files.images) == number
    cpu_s = time.process_time()  # the look lists the folder, too
    look_s, survey = _timed(
        lambda: survey_data(
            plan,
            {"pictures": folder},
            max_px=max_px,
            on_progress=lambda *_: None,
            depth="headers",
            max_looked_at=number,
        )
    )
    items = [item for chosen in survey.chosen for item in chosen.items]
    index_s, index = _timed(lambda: build_index(plan, items, TINY_CONFIG))
    assert len(index.samples) == number
    digest_s, _ = _timed(index.digest)
    return {
        "pictures": number,
        "list_s": round(list_s, 2),
        "headers_and_report_s": round(look_s, 2),
        "index_s": round(index_s, 2),
        "digest_s": round(digest_s, 2),
        "total_s": round(look_s + index_s + digest_s, 2),  # the look lists the folder, too
        "cpu_us_per_picture": round(1e6 * (time.process_time() - cpu_s) / number, 1),
        "peak_mib": round(_peak_mib()),
        "peak_above_start_mib": round(_peak_mib() - start_mib),
    }


def _plan() -> Plan:
    backend = {"id": "pictures", "caption_strategy": "textfile"}
    return import_small({"train_batch_size": 4, "max_train_steps": 1000}, backends=[backend]).plan


def _timed(work: Callable[[], Found]) -> tuple[float, Found]:
    start_s = time.perf_counter()
    found = work()
    return time.perf_counter() - start_s, found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _linearity(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """CPU time and memory of a picture in the largest folder over the smallest; 1: linear."""
    first, last = rows[0], rows[-1]
    memory = [row["peak_above_start_mib"] / row["pictures"] for row in (first, last)]
    return {
        "cpu": round(last["cpu_us_per_picture"] / first["cpu_us_per_picture"], 2),
        "memory": round(memory[1] / memory[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
