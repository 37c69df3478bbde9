"""One step under DeepSpeed, in a process of its own: it keeps state in globals and environment."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.plan_fields.world import World, count_trained
from trainer_core.config.plan import Plan
from trainer_core.engine.loop import Run
from trainer_core.engine.setup import load_parts
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job


@dataclass(frozen=True, kw_only=True)
class ZeroFacts:
    parameters: int
    split: int
    """Parameters whose elements are dealt to the ranks."""
    micro_batches: int
    """That the one rank took in the step."""


def zero_facts(plan: Plan, world: World) -> ZeroFacts:
    """Of the run's first step with a single rank."""
    key = plan.model_dump_json()
    if key not in _known:
        _known[key] = _measured(plan, world)
    return _known[key]


_known: dict[str, ZeroFacts] = {}


def _measured(plan: Plan, world: World) -> ZeroFacts:
    job, folder = world.job(plan), world.new_folder()
    report, log = folder / "facts.json", folder / "output.log"
    pid = os.fork()
    if pid == 0:
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            _take_a_step(job.model_copy(update={"output_dir": str(folder)}), report)
        finally:
            os._exit(0)  # pytest goes on in the parent alone
    os.waitpid(pid, 0)
    assert report.exists(), log.read_text()[-2000:]
    return ZeroFacts(**json.loads(report.read_text()))


def _take_a_step(job: Job, report: Path) -> None:
    parts, control = load_parts(job, Control(None)), Control(None)
    parameters = list(parts.transformer.parameters())
    forwards = count_trained(parts.transformer)
    split = sum(hasattr(each, "ds_id") for each in parameters)
    folder = Path(job.output_dir)
    with EventWriter(folder / "events.jsonl") as events:
        events.listen("the end", lambda e: control.ask_to_stop() if e["step"] else None)
        Run(job, parts, events, control).go()
    facts = ZeroFacts(parameters=len(parameters), split=split, micro_batches=len(forwards))
    report.write_text(json.dumps(asdict(facts)))
