"""One step under DeepSpeed, in a process of its own: it keeps state in globals and environment."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.plan_fields.world import World, count_trained
from trainer_core.config.plan import Plan
from trainer_core.engine.loop import train
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import open_run
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job, read_job


@dataclass(frozen=True, kw_only=True)
class ZeroFacts:
    parameters: int
    split: int
    """Parameters whose elements are shared among the ranks."""
    micro_batches: int
    """Micro-batches that the one rank took in the step."""


def zero_facts(plan: Plan, world: World) -> ZeroFacts:
    """Facts of the run's first step with a single rank; equal plans share one process."""
    key = plan.model_dump_json()
    if key not in _known:
        _known[key] = _measured(plan, world)
    return _known[key]


_known: dict[str, ZeroFacts] = {}


def _measured(plan: Plan, world: World) -> ZeroFacts:
    folder = world.new_folder()
    job = world.job(plan).model_copy(update={"output_dir": str(folder)})
    job_file, report, log = folder / "job.json", folder / "facts.json", folder / "output.log"
    job_file.write_text(job.model_dump_json())
    status = world.zygote.run(__name__, [str(job_file), str(report)], log)
    assert status == 0, log.read_text()[-2000:]
    return ZeroFacts(**json.loads(report.read_text()))


def main(argv: Sequence[str]) -> int:
    """Take the job's first step and write its facts: ``JOB REPORT``."""
    job_file, report = map(Path, argv)
    _take_a_step(read_job(job_file), report)
    return 0


def _take_a_step(job: Job, report: Path) -> None:
    parts, control = load_run(job, Control(None)), Control(None)
    parameters = list(parts.network.transformer.parameters())
    forwards = count_trained(parts.network.transformer)
    split = sum(hasattr(each, "ds_id") for each in parameters)
    folder = Path(job.output_dir)
    with EventWriter(folder / "events.jsonl") as events:
        events.listen("the end", lambda e: control.request_stop() if e.step else None)
        train(open_run(job, parts, events, control))
    facts = ZeroFacts(parameters=len(parameters), split=split, micro_batches=len(forwards))
    report.write_text(json.dumps(asdict(facts)))
