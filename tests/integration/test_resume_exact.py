"""A run that was killed and resumed ends with the same bits as one that never was.

Each run is a process of its own with one thread, killed between two micro-batches of a random step
or after one.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file

from tests.support.jobs import make_job
from tests.support.zygote import Zygote
from trainer_core.checkpoint.folders import committed_checkpoints

ACCUMULATION: Final = 2


@dataclass(frozen=True)
class Length:
    """How long a run is, in steps."""

    steps: int
    every: int
    """Between checkpoints: there are two, the first of a short run within its warm-up."""


SHORT: Final = Length(steps=10, every=5)
LONG: Final = Length(steps=40, every=20)

Case = tuple[str, str, str]
"""What is trained, by which optimizer, on which base."""

_RATES: Final = {
    "optimi-lion": 1e-4,
    "optimi-adamw": 1e-3,
    "adamw": 1e-3,
    "prodigy": 1.0,
    "bnb-lion8bit-paged": 1e-4,
}
"""Optimizer → learning rate."""
COVERING: Final[tuple[Case, ...]] = (
    ("lokr", "optimi-lion", "int8-quanto"),
    ("full", "bnb-lion8bit-paged", "no_change"),
    ("lora", "adamw", "int8-quanto"),
)
"""Each kind of weights, of base and of optimizer state once; the 8-bit one where tensors are large
enough for 8 bits."""
ALL: Final = tuple(
    case
    for case in product(
        ("lokr", "lora", "full"),
        _RATES,
        ("no_change", "int8-quanto"),
    )
    if case[0] != "full" or case[2] == "no_change"  # int8 weights cannot be trained
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def job_of(
    tiny: Path,
    shards: Path,
    folder: Path,
    case: Case,
    *,
    seed: int,
    length: Length,
    **identity: Any,
) -> dict[str, Any]:
    """A job with EMA, accumulation, warm-up and dropout of captions (and of LoRA)."""
    trained, optimizer, base = case
    full = {"model_type": "full", "lora_type": None, "lycoris_config": None}
    job = make_job(
        tiny,
        shards,
        folder,
        edge_px=64,
        count=2,
        seed=seed,
        max_train_steps=length.steps,
        checkpoint_step_interval=length.every,
        lr_warmup_steps=6,
        caption_dropout_probability=0.3,
        base_model_precision=base,
        mixed_precision="no",
        max_grad_norm=1.0,
        grad_clip_method="norm",
        gradient_accumulation_steps=ACCUMULATION,
        **(full if trained == "full" else {}),
    )
    plan = job["plan"]["identity"]
    plan["optimizer"] |= {
        "name": optimizer,
        "learning_rate": _RATES[optimizer],
        "weight_decay": 0.01,
    }
    plan["ema"] = {"decay": 0.9, "warmup_steps": 0, "update_interval": 3}
    if trained == "lora":
        plan["model_type"] = "lora"
        plan["adapter"] = {
            "kind": "lora",
            "rank": 4,
            "alpha": 8.0,
            "dropout": 0.2,
            "init": "default",
            "modules": [module["path"] for module in plan["adapter"]["modules"]],
        }
    plan |= identity
    job["plan"]["operation"] |= {
        "zero_stage": None,
        "ema_device": "cpu",
        # Where dropout has to be drawn again the same way.
        "gradient_checkpointing": trained == "lora",
        "gradient_checkpointing_interval": 2,
    }
    return job


def state_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"output/checkpoints/step-{step:08d}/state.safetensors")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "output/result").rglob("*.safetensors")
    return load_file(file)


def result_files(folder: Path) -> dict[str, bytes]:
    """Every file of the result, by its path: the manifest covers all of them, byte for byte."""
    result = folder / "output/result"
    return {
        path.relative_to(result).as_posix(): path.read_bytes()
        for path in sorted(result.rglob("*"))
        if path.is_file()
    }


def same_bits(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> bool:
    return expected.keys() == found.keys() and all(
        value.dtype is found[name].dtype and torch.equal(value, found[name])
        for name, value in expected.items()
    )


@dataclass(frozen=True)
class Trainings:
    """Where the cases run."""

    zygote: Zygote
    tiny: Path
    shards: Path
    folder: Path

    def job(
        self, name: str, case: Case, seed: int, length: Length = SHORT, **identity: Any
    ) -> dict[str, Any]:
        folder = self.folder / name
        return job_of(self.tiny, self.shards, folder, case, seed=seed, length=length, **identity)


@pytest.fixture
def trainings(zygote: Zygote, tiny_folder: Path, shards: Path, tmp_path: Path) -> Trainings:
    return Trainings(zygote, tiny_folder, shards, tmp_path)


def check_case(trainings: Trainings, case: Case, length: Length, *, seed: int, fault: str) -> None:
    """``fault``: where the first process is killed, once in the steps after its checkpoint."""
    zygote = trainings.zygote
    whole, broken = trainings.folder / "whole", trainings.folder / "broken"
    status, events = zygote.train(trainings.job("whole", case, seed, length), whole)
    assert status == 0, (whole / "output.log").read_text()

    step = random.Random(f"{seed} {case}").randrange(length.every + 1, 2 * length.every)
    # The first of a step's micro-batches: the gradient of half a step is lost.
    at = (step - 1) * ACCUMULATION + 1 if fault == "train.after_backward" else step
    job = trainings.job("broken", case, seed, length)
    killed, _ = zygote.train(job, broken, {"FAULT_AT": f"{fault}@{at}=kill"})
    assert killed == -9, (broken / "output.log").read_text()
    (checkpoint,) = committed_checkpoints(broken / "output/checkpoints")
    assert checkpoint.name == f"step-{length.every:08d}"
    job["resume_from"] = str(checkpoint)
    status, resumed = zygote.train(job, broken)
    assert status == 0, (broken / "output.log").read_text()

    half, expected = state_of(whole, length.every), state_of(whole, length.steps)
    assert {name.partition("/")[0] for name in expected} >= {"param", "optim", "ema"}
    changed = {name for name, value in expected.items() if not torch.equal(value, half[name])}
    assert {name for name in expected if name.startswith(("param/", "ema/"))} <= changed
    assert same_bits(expected, state_of(broken, length.steps))
    assert result_files(whole) == result_files(broken)
    if case[0] == "full":  # whose file has the parameters' own names
        means = {n.removeprefix("ema/"): v for n, v in expected.items() if n.startswith("ema/")}
        assert same_bits(means, weights_of(whole))
    probes = [[e["losses"] for e in each if e["event"] == "eval"] for each in (events, resumed)]
    assert probes[0] == probes[1]
    assert [e["seq"] for e in resumed] == list(range(1, len(resumed) + 1))


@pytest.mark.parametrize("case", COVERING, ids=" ".join)
def test_a_kill_changes_no_bit(trainings: Trainings, case: Case) -> None:
    check_case(trainings, case, SHORT, seed=42, fault="train.after_backward")


def test_a_kill_within_a_backward_pass_that_updates_changes_no_bit(trainings: Trainings) -> None:
    """Weights in bf16, each updated as its gradient is there, clipped by the last step's norm."""
    jobs = {}
    for name in ("whole", "broken"):
        job = trainings.job(name, ("full", "optimi-lion", "no_change"), 42)
        job["plan"]["identity"] |= {
            "ema": None,
            "accumulation_steps": 1,
            "clip": {"method": "previous_norm", "limit": 1e-2},
        }
        job["plan"]["identity"]["precision"] |= {"compute": "bf16", "trained": "bf16"}
        job["plan"]["operation"] |= {"release_gradients": True}
        jobs[name] = job
    whole, broken = (trainings.folder / name for name in jobs)
    status, _ = trainings.zygote.train(jobs["whole"], whole)
    assert status == 0, (whole / "output.log").read_text()

    fault = {"FAULT_AT": "train.after_backward@8=kill"}
    killed, _ = trainings.zygote.train(jobs["broken"], broken, fault)
    assert killed == -9, (broken / "output.log").read_text()
    (checkpoint,) = committed_checkpoints(broken / "output/checkpoints")
    jobs["broken"]["resume_from"] = str(checkpoint)
    status, _ = trainings.zygote.train(jobs["broken"], broken)
    assert status == 0, (broken / "output.log").read_text()

    expected = state_of(whole, SHORT.steps)
    assert expected["optim_group_tensor/previous_norm"] > 1e-2
    assert same_bits(expected, state_of(broken, SHORT.steps))
    assert result_files(whole) == result_files(broken)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("seed", "fault"), [(7, "train.after_backward"), (1234567, "train.after_step")]
)
@pytest.mark.parametrize("case", ALL, ids=" ".join)
def test_a_kill_changes_no_bit_in_any_combination(
    trainings: Trainings, case: Case, seed: int, fault: str
) -> None:
    # Prodigy finds its step size first: after ten steps, some weights have not moved.
    check_case(trainings, case, LONG, seed=seed, fault=fault)


@pytest.mark.parametrize(
    ("trained", "base"),
    [
        ("lokr", "no_change"),
        ("lokr", "int8-quanto"),
        ("lora", "int8-quanto"),
        ("full", "no_change"),
    ],
)
def test_one_step_at_a_tiny_rate_changes_what_is_saved(
    trainings: Trainings, trained: str, base: str
) -> None:
    """Also in bf16: trained weights are fp32, where such a step does not round to nothing."""
    states = []
    for rate in (1e-7, 2e-7):
        folder = trainings.folder / str(rate)
        job = trainings.job(str(rate), (trained, "adamw", base), 42)
        identity = job["plan"]["identity"]
        identity["optimizer"]["learning_rate"] = rate
        identity["precision"]["compute"] = "bf16"
        identity |= {"max_train_steps": 1, "accumulation_steps": 1}
        identity["schedule"]["warmup_steps"] = 0
        # All that follows the checkpoint is not looked at here.
        fault = {"FAULT_AT": "checkpoint.after_rename=kill"}
        killed, _ = trainings.zygote.train(job, folder, fault)
        assert killed == -9, (folder / "output.log").read_text()
        states.append(state_of(folder, 1))

    moved = [
        name
        for name, value in states[0].items()
        if name.startswith("param/") and not torch.equal(value, states[1][name])
    ]
    assert moved
    assert all(states[0][name].dtype is torch.float32 for name in moved)


def test_another_plan_is_refused_with_the_fields_that_differ(trainings: Trainings) -> None:
    case = ("lokr", "optimi-lion", "no_change")
    linear = {"name": "linear", "warmup_steps": 0, "end": 0.0, "power": 1.0, "period_steps": None}
    small = {"max_train_steps": 1, "accumulation_steps": 1, "schedule": linear}
    first = trainings.job("first", case, 42, **small)
    fault = {"FAULT_AT": "checkpoint.after_rename=kill"}
    killed, _ = trainings.zygote.train(first, trainings.folder / "first", fault)
    assert killed == -9
    checkpoint = trainings.folder / "first/output/checkpoints/step-00000001"
    assert json.loads((checkpoint / "manifest.json").read_text())["scalars"]["threads"] == 1
    other = trainings.job("other", case, 42, **small)
    # The rate of a linear schedule follows the length: such a run cannot be prolonged.
    other["plan"]["identity"] |= {"seed": 7, "ema": None, "max_train_steps": 2}
    other["resume_from"] = str(checkpoint)

    status, events = trainings.zygote.train(other, trainings.folder / "other")

    assert status == 1
    assert events[-1]["code"] == "bad_checkpoint"
    assert "seed: 7 here, 42 in the checkpoint" in events[-1]["message"]
    assert "use_ema: none here" in events[-1]["message"]
    assert "max_train_steps: 2 here, 1 in the checkpoint" in events[-1]["message"]
