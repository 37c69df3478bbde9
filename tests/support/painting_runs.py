"""Short runs in this process that make pictures while they train."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.few_samples import few
from tests.support.jobs import demo_plan, photo_items, write_entries
from tests.support.small_jobs import named
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Plan
from trainer_core.data.indexing import build_index
from trainer_core.engine.loop import run_job
from trainer_core.process.control import Control
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.job import Job

PICTURES: Final[dict[str, Any]] = {
    "validation_step_interval": 2,
    "validation_prompt": "a red boat on a lake",
    "validation_negative_prompt": "blurry",
    "validation_resolution": "64x32, 32",
    "validation_num_inference_steps": 2,
    "validation_guidance": 2.0,
    "validation_seed": 5,
}


@dataclass(frozen=True)
class Trained:
    """A run that came to its end, or was stopped."""

    folder: Path
    is_finished: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").open()]

    def pictures(self) -> list[dict[str, Any]]:
        """The events of the pictures; that of the result's sample has no sha256."""
        return [each for each in named(self.events, "sample") if "sha256" in each]

    def state_of(self, step: int) -> bytes:
        return (self.folder / f"checkpoints/step-{step:08d}/state.safetensors").read_bytes()


def job_of(
    tiny: Path,
    shards: Path,
    folder: Path,
    *,
    changed: Callable[[Plan], Plan] = lambda plan: plan,
    **options: Any,
) -> Job:
    """Four steps of a LoRA with dropout and a mean; its texts are as they are encoded.

    ``changed`` gets the plan of the options; the job has what it returns.
    """
    base = read_base_model(tiny)
    lora: dict[str, Any] = {
        "lora_type": "standard",
        "lora_rank": 4,
        "lora_dropout": 0.3,
        "use_ema": True,
        "ema_decay": 0.5,
        "max_train_steps": 4,
        "checkpoint_step_interval": 2,
        "report_to": None,
        "optimizer": "torch-adamw",
        "mixed_precision": "no",
        "text_encoder_3_precision": "no_change",
        "text_encoder_4_precision": "no_change",
    }
    plan = changed(demo_plan(base, edge_px=64, **{**lora, **options}))
    index = build_index(plan, photo_items(plan, 2), base.transformer_config)
    write_entries(index, base, shards)
    return Job(
        plan=plan,
        index=index,
        base_model_dir=str(tiny),
        shards_dir=str(shards),
        output_dir=str(folder),
        resume_from=None,
        keep_checkpoints=10,
        shard_wait_s=1,
    )


def run(job: Job, *, stop_at: Any = None) -> Trained:
    """``stop_at``: an event is given to it; where it answers True a stop is requested."""
    folder, control = Path(job.output_dir), Control(None)

    def listen(event: Event) -> None:
        if stop_at is not None and stop_at(event):
            control.request_stop()

    with few(), EventWriter(folder / "events.jsonl") as events:
        events.listen("stop", listen)
        is_finished = run_job(job, events, control)
    return Trained(folder, is_finished)
