"""What is measured of whole runs. Each case makes its jobs, trains them and returns its figures."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.start.folder import Setting, make_job
from benchmarks.whole_run.checkpoints import differences
from benchmarks.whole_run.figures import growth, observations, pace, peak, start
from benchmarks.whole_run.no_sync import LAST
from benchmarks.whole_run.process import RunFailedError, environment_of, tell, train
from trainer_core.checkpoint.layout import checkpoint_name
from trainer_core.process.job import read_job

_DETERMINISTIC: Final[Mapping[str, Any]] = {"deterministic": True}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the output."""

    measure: Callable[[Setting, int], dict[str, Any]]
    """Of a setting and a number of steps."""
    steps: int
    """Unless another number is asked for."""
    mixes_sizes: bool = False
    """Otherwise all pictures have the first size."""


def speed(setting: Setting, steps: int) -> dict[str, Any]:
    """A run against its bare step, which is timed first, in a process of its own."""
    job = _job(setting, "speed", steps)
    bare = _bare(job)
    events = train(job)
    found = pace(events) | peak(events) | start(events)
    return found | {
        "bare_s": round(bare["step_s"], 4),
        "bare_min_s": round(bare["min_s"], 4),
        "bare_max_s": round(bare["max_s"], 4),
        "bare_peak_gib": bare["peak_gib"] and round(bare["peak_gib"], 2),
        "ratio": round(found["step_s"] / bare["step_s"], 4),
        "ratio_with_checkpoint": round(found["with_checkpoint_s"] / bare["step_s"], 4),
    }


def memory(setting: Setting, steps: int) -> dict[str, Any]:
    """Memory in use while buckets of all sizes take turns."""
    # Two pictures of each size: an epoch is short, and the sizes come in random order.
    few = replace(setting, pictures=2 * len(setting.sizes_px))
    events = train(_job(few, "memory", steps))
    return growth(events) | pace(events) | peak(events)


def no_sync(setting: Setting, steps: int) -> dict[str, Any]:
    """Whether the host waits for the device in 50 steps; if it does, the run fails."""
    if steps <= LAST:
        raise RunFailedError(f"the case takes more than {LAST} steps")
    # A checkpoint waits for the device.
    job = _job(setting, "no-sync", steps, checkpoint_every=steps)
    train(job, ("benchmarks.whole_run.no_sync",))
    return {"waits": 0}


def resume(setting: Setting, steps: int) -> dict[str, Any]:
    """In the deterministic mode: a run, and one that resumes from its half; then without the mode.

    Compares the checkpoints after the last step.
    """
    plain = replace(setting, pictures=8)
    exact = replace(plain, options={**plain.options, **_DETERMINISTIC})
    whole = _job(exact, "resume-whole", steps)
    with_mode = pace(train(whole))
    rest = _job(exact, "resume-rest", steps, resume_from=_checkpoint(whole, steps // 2))
    train(rest)
    found = differences(_checkpoint(whole, steps), _checkpoint(rest, steps))
    without = pace(train(_job(plain, "resume-without-mode", steps)))
    return found | {
        "step_s": with_mode["step_s"],
        "step_s_without_mode": without["step_s"],
        "cost": round(with_mode["step_s"] / without["step_s"] - 1, 4),
    }


def pictures(setting: Setting, steps: int) -> dict[str, Any]:
    """Pictures and evaluations between steps: their seconds, and the memory that they add.

    A quarter of the steps without any, then evaluations, then pictures of the first size as well.
    """
    quarter = steps // 4
    options = {
        **setting.options,
        "disable_benchmark": True,
        "validation_step_interval": 2 * quarter,
        "eval_steps_interval": quarter,
        "num_eval_images": 8,
    }
    job = _job(replace(setting, options=options), "pictures", steps, sampler_steps=28)
    events = train(job)
    return observations(events, first_evaluation=quarter, first_picture=2 * quarter) | pace(events)


CASES: Final[Mapping[str, Case]] = {
    "speed": Case(speed, 200),
    "memory": Case(memory, 500, mixes_sizes=True),
    "no-sync": Case(no_sync, LAST + 5),
    "resume": Case(resume, 40),
    "pictures": Case(pictures, 40),
}


def _job(
    setting: Setting,
    name: str,
    steps: int,
    *,
    resume_from: Path | None = None,
    checkpoint_every: int | None = None,
    sampler_steps: int = 2,
) -> Path:
    """The file of a new job, with a checkpoint at the end and each ``checkpoint_every`` steps.

    ``checkpoint_every``: half of the steps where it is None. ``sampler_steps``: of each picture;
    the one of the result belongs to a run, and is not measured.
    """
    options = {
        **setting.options,
        "max_train_steps": steps,
        "checkpoint_step_interval": checkpoint_every or steps // 2,
        "validation_num_inference_steps": sampler_steps,
    }
    folder = setting.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    tell(f"{name}: writes cache entries and job")
    return make_job(replace(setting, options=options), folder, resume_from)


def _checkpoint(job: Path, step: int) -> Path:
    return read_job(job).checkpoints_dir / checkpoint_name(step)


def _bare(job: Path) -> dict[str, Any]:
    """The ``Timing`` of the bare step."""
    tell("bare: starts")
    command = [sys.executable, "-m", "benchmarks.whole_run.bare", "--job", str(job)]
    done = subprocess.run(
        command, env=environment_of(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunFailedError(f"the bare step: {done.stderr[-600:]}")
    timing: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    tell(f"bare: {timing['step_s']:.4f} s")
    return timing
