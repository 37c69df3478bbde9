"""Small finished runs of this process, and the commands that use their checkpoints."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from services.cli.connection import Invocation
from services.cli.program import app
from tests.support.small_jobs import STEPS, small_job
from trainer_core.engine.loop import train
from trainer_core.engine.setup import load_run
from trainer_core.engine.state import open_run
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job, write_job

ADAPTER = "pytorch_lora_weights.safetensors"
LAST = f"step-{STEPS:08d}"
EMA = {"use_ema": True, "ema_decay": 0.9}
LORA = {"lora_type": "standard", "lycoris_config": None, "lora_rank": 4}
FULL = {
    "model_type": "full",
    "lora_type": None,
    "lycoris_config": None,
    "base_model_precision": "no_change",
}
SMALL = ("--prompt", "a cat", "--width", 32, "--steps", 1, "--guidance", 1, "--device", "cpu")


@dataclass(frozen=True)
class Trainer:
    """Trains small jobs in this process, each in a folder of its own."""

    tiny: Path
    shards: Path
    home: Path

    def train(self, name: str, resume_from: Path | None = None, **options: Any) -> Path:
        """The output folder of a finished run, with its job as a local run leaves it."""
        folder = self.home / name
        folder.mkdir()
        few = {"validation_num_inference_steps": 1, "validation_guidance": 1.0}
        raw = small_job(self.tiny, self.shards, folder, **{**few, **options})
        raw["resume_from"] = None if resume_from is None else str(resume_from)
        job = Job.model_validate(raw)
        job.checkpoints_dir.mkdir(parents=True)
        control = Control(None)
        with EventWriter(folder / "events.jsonl") as events:
            run = open_run(job, load_run(job, control), events, control)
            # Most of the time would go into 64 of them.
            assert train(replace(run, evaluation_samples=run.evaluation_samples[:1]))
        write_job(folder / "output" / "job.json", job)
        return folder / "output"


def reverie(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, [str(each) for each in arguments], obj=Invocation(env={}), catch_exceptions=False
    )


def export(*arguments: object) -> Path:
    result = reverie("export", *arguments)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def painted(output: Path, *arguments: object) -> bytes:
    result = reverie("generate", *SMALL, "--output", output, *arguments)
    assert result.exit_code == 0, result.output
    return output.read_bytes()
