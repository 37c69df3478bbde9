"""Record runs with the code of commit 60c19c9; the README beside this file says how to call it.

Each case is a short run whose checkpoint at half its length is kept as it was written. What the
same, unbroken run reported and saved after that is kept beside it as the expectation.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from trainer_core.hidream.tiny import make_tiny

from tests.integration.test_resume_exact import Case, job_of
from tests.support.jobs import train

STEPS, EVERY, MODULES = 6, 3, 6
CASES: dict[str, Case] = {
    "lokr-lion-int8": ("lokr", "optimi-lion", "int8-quanto"),
    "lokr-prodigy": ("lokr", "prodigy", "no_change"),
    "lora-adamw": ("lora", "adamw", "no_change"),
}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tiny = scratch / "hidream-tiny"
        make_tiny(tiny)
        for case, settings in CASES.items():
            record(folder / case, scratch / case, tiny, scratch / "shards", settings)


def record(to: Path, scratch: Path, tiny: Path, shards: Path, settings: Case) -> None:
    shards.mkdir(exist_ok=True)
    job = job_of(tiny, shards, scratch, settings, seed=42, max_train_steps=STEPS)
    job["plan"]["operation"]["checkpoint_step_interval"] = EVERY
    adapter = job["plan"]["identity"]["adapter"]
    adapter["modules"] = adapter["modules"][:MODULES]  # keeps the files small
    status, events = train(job, scratch)
    assert status == 0, (scratch / "output.log").read_text()

    output = scratch / "output"
    half, last = (f"checkpoints/step-{step:08d}" for step in (EVERY, STEPS))
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(output / half, to / "checkpoint")
    save_file(load_file(output / last / "state.safetensors"), to / "final_state.safetensors")
    (weights,) = (output / "result").rglob("*.safetensors")
    save_file(load_file(weights), to / "result.safetensors")
    expected = {
        "cpu": cpu_model(),
        "steps": [step_facts(e) for e in events if e["event"] == "step" and e["step"] > EVERY],
        "evaluation": [e["losses"] for e in events if e["event"] == "eval"][-1],
    }
    given = {**job, "base_model_dir": "", "shards_dir": "", "output_dir": "", "resume_from": None}
    for file, document in (("job.json", given), ("expected.json", expected)):
        (to / file).write_text(json.dumps(document, indent=1) + "\n")


def step_facts(event: dict[str, Any]) -> dict[str, Any]:
    names = ("step", "loss", "learning_rate", "grad_max", "epoch")
    return {name: event[name] for name in names}


def cpu_model() -> str:
    """Name and a digest of the features: bits are compared only on a CPU that shares both."""
    facts = dict(
        line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines()
    )
    stripped = {name.strip(): value.strip() for name, value in facts.items()}
    flags = hashlib.sha256(stripped.get("flags", "").encode()).hexdigest()[:12]
    return f"{stripped.get('model name', 'unknown')} {flags}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
