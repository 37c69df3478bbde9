"""Runs of ``reverie train`` into one output folder, without training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch

from trainer_core.base_models.obtain import FoundBase
from trainer_core.checkpoint.identity import checkpoint_identity
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    write_checkpoint,
    write_result,
)
from trainer_core.config.plan import Plan, StartAdapter
from trainer_core.local.attempt import Attempt
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job
from trainer_core.progress import SilentReporter

LAST = 4
FIRST = "astronaut_portrait.jpg"


@dataclass
class Logged(SilentReporter):
    """Keeps the lines."""

    lines: list[str]

    def log(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Runs:
    """Runs into one folder. Training is replaced: it only writes a checkpoint at each step."""

    plan: Plan
    base: FoundBase
    output: Path
    data: Mapping[str, Path]
    started_at: list[int] = field(default_factory=list[int])
    stop_at: int = LAST
    last: int | None = LAST
    epochs: int | None = None
    order: Literal[1, 2] = 2
    """1: as a version started it that had the order by names only."""
    probability: float = 1.0
    logged: list[str] = field(default_factory=list[str])

    def start(
        self,
        request: str,
        *,
        stop_at: int = LAST,
        seed: int = 42,
        drawn: bool = False,
        start_from: Path | None = None,
    ) -> Path | None:
        """As ``reverie train``; ``drawn`` says that ``seed`` was drawn at random this time."""
        self.stop_at = stop_at
        digest = sha256(str(start_from).encode()).hexdigest()
        start = None if start_from is None else StartAdapter(sha256=digest)
        identity = self.plan.identity.model_copy(
            update={
                "seed": seed,
                "max_train_steps": self.last,
                "num_train_epochs": self.epochs,
                "start_adapter": start,
                "accumulation_steps": 1000,  # an epoch is a part of a step
                "sample_order": self.order,
                "backends": tuple(
                    each.model_copy(update={"probability": self.probability})
                    for each in self.plan.identity.backends
                ),
            }
        )
        operation = self.plan.operation.model_copy(
            update={"resume_from": request, "report_to": (), "checkpoints_total_limit": 9}
        )
        plan = self.plan.model_copy(update={"identity": identity, "operation": operation})
        with EventWriter(self.output / "events.jsonl") as events:
            attempt = Attempt(
                env={},
                folders=(self.output.parent,),
                output_dir=self.output,
                cache_dir=self.output / "cache",
                node_cache=None,
                control=Control(None),
                events=events,
                reporter=Logged(self.logged),
                start_from=start_from,
                seed_is_drawn=drawn,
            )
            return attempt.train(plan, self.base, self.data)

    def train(self, job: Job) -> bool:
        start = int(job.resume_from.rpartition("-")[2]) if job.resume_from else 0
        self.started_at.append(start)
        identity = checkpoint_identity(job)
        for step in range(start + 1, self.stop_at + 1):
            facts = CheckpointFacts(
                step=step,
                cursor=step,
                run=identity,
                scalars={},
            )
            tensors = {"a": torch.tensor([float(step)])}
            trained = TrainedTensors(parameters=tensors, optimizer_state={}, ema={})
            write_checkpoint(job.checkpoints_dir, facts, trained)
        if self.stop_at < LAST:
            return False
        write_result(job.result_dir, LAST, lambda folder: None)
        return True

    def warnings(self) -> list[tuple[str, str]]:
        """Code and message of each warning event, but for those about the pictures."""
        lines = (self.output / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        found = [(e["code"], e["message"]) for e in events if e["event"] == "warning"]
        return [(code, message) for code, message in found if code != "data"]

    def stored_files(self) -> list[str]:
        """Files of the output folder, but for events and cache, with their times of change."""
        kept = {"checkpoints", "result", "job.json", "course.json"}
        found = [
            path
            for path in self.output.rglob("*")
            if path.relative_to(self.output).parts[0] in kept
            or path.relative_to(self.output).parts[0].startswith("set-aside")
        ]
        return sorted(
            f"{path.relative_to(self.output)} {path.stat().st_mtime_ns}"
            for path in found
            if path.is_file()
        )

    def steps(self) -> list[int]:
        names = (self.output / "checkpoints").iterdir()
        return sorted(int(path.name.removeprefix("step-")) for path in names)

    def aside(self) -> list[str]:
        return sorted(path.name for path in self.output.glob("set-aside-*/*"))


def step(number: int) -> str:
    return f"step-{number:08d}"
