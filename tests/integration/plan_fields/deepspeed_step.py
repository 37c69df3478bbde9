"""One step under DeepSpeed, in its own process: DeepSpeed changes globals and the environment."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.plan_fields.environment import Environment, count_training_forwards
from trainer_core.config.plan import Plan
from trainer_core.engine.loop import train
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import open_run
from trainer_core.engine.zero import ZeroSharded
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job, read_job


@dataclass(frozen=True, kw_only=True)
class DeepSpeedStep:
    """What was observed of the step."""

    parameters: int
    sharded: int
    """Parameters whose elements are sharded."""
    is_offloaded: bool
    """Whether DeepSpeed keeps fp32 weights beside the gradients that it has moved there."""
    micro_batches: int
    """Forwards with gradients of the single rank."""


def deepspeed_step(plan: Plan, environment: Environment) -> DeepSpeedStep:
    """The run's first step with a single rank; equal plans share one process."""
    key = plan.model_dump_json()
    if key not in _steps:
        _steps[key] = _run_in_a_process(plan, environment)
    return _steps[key]


_steps: dict[str, DeepSpeedStep] = {}


def _run_in_a_process(plan: Plan, environment: Environment) -> DeepSpeedStep:
    folder = environment.new_folder()
    job = environment.job(plan).model_copy(update={"output_dir": str(folder)})
    job_file, report, log = folder / "job.json", folder / "step.json", folder / "output.log"
    job_file.write_text(job.model_dump_json())
    status = environment.zygote.run(__name__, [str(job_file), str(report)], log)
    assert status == 0, log.read_text()[-2000:]
    return DeepSpeedStep(**json.loads(report.read_text()))


def main(argv: Sequence[str]) -> int:
    """Take the job's first step and write what was observed: ``JOB REPORT``."""
    job_file, report = map(Path, argv)
    _take_first_step(read_job(job_file), report)
    return 0


def _take_first_step(job: Job, report: Path) -> None:
    loaded, control = load_run(job, Control(None)), Control(None)
    parameters = list(loaded.network.transformer.parameters())
    forwards = count_training_forwards(loaded.network.transformer)
    sharded = sum(hasattr(each, "ds_id") for each in parameters)
    folder = Path(job.output_dir)
    with EventWriter(folder / "events.jsonl") as events:
        events.listen("stop", lambda e: control.request_stop() if e.step else None)
        train(open_run(job, loaded, events, control))
    assert isinstance(loaded.backend, ZeroSharded)
    step = DeepSpeedStep(
        parameters=len(parameters),
        sharded=sharded,
        is_offloaded=all(shard.grad is not None for shard in loaded.backend.shards.leaves),
        micro_batches=len(forwards),
    )
    report.write_text(json.dumps(asdict(step)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
