"""The adapter that is made of a checkpoint without torch equals the one that training writes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support.adapters import EXAMPLES, Example
from tests.support.jobs import demo_plan
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import EmaPlan, Plan
from trainer_core.errors import CheckpointError
from trainer_core.export.checkpoint_adapter import write_checkpoint_adapter
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.hidream.loading import load_transformer

STEP = 7
IDENTITY = CheckpointIdentity(
    identity_digest="1" * 64, identity={}, data_digest="2" * 64, base_digest="3" * 64, matmul="auto"
)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> torch.nn.Module:
    return load_transformer(tiny_folder, torch.float32)


@pytest.fixture(scope="module")
def base_plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=128)


def plan_with(plan: Plan, example: Example, ema: EmaPlan | None = None) -> Plan:
    identity = plan.identity.model_copy(update={"adapter": example.adapter, "ema": ema})
    return plan.model_copy(update={"identity": identity})


def checkpoint_of(folder: Path, example: Example, *, ema: bool = False) -> Path:
    state = {
        f"optim/{name}/exp_avg": tensor.to(torch.bfloat16)
        for name, tensor in example.parameters.items()
    }
    raw = {name: tensor + 1 for name, tensor in example.parameters.items()}
    trained = TrainedTensors(
        parameters=raw if ema else example.parameters,
        optimizer_state={**state, "optim_number/step": torch.tensor(3)},
        ema=example.parameters if ema else {},
    )
    facts = CheckpointFacts(step=STEP, cursor=STEP, run=IDENTITY, scalars={})
    return write_checkpoint(folder, facts, trained).path


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("ema", [False, True])
def test_tensors_and_metadata_are_equal_bit_for_bit(
    model: torch.nn.Module, base_plan: Plan, tmp_path: Path, name: str, ema: bool
) -> None:
    example = EXAMPLES[name](model)
    expected = example.write(tmp_path / "trained")
    mean = EmaPlan(decay=0.99, update_interval=1, warmup_steps=0) if ema else None
    made = tmp_path / "made"
    made.mkdir()

    count = write_checkpoint_adapter(
        checkpoint_of(tmp_path, example, ema=ema), plan_with(base_plan, example, mean), STEP, made
    )

    assert count == sum(tensor.numel() for tensor in example.parameters.values())
    ours, theirs = load_file(made / ADAPTER_NAME), load_file(expected)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype == torch.float32
        assert ours[key].shape == tensor.shape
        assert torch.equal(ours[key].view(torch.int32), tensor.view(torch.int32)), key
    with safe_open(made / ADAPTER_NAME, "pt") as one, safe_open(expected, "pt") as other:
        metadata = other.metadata()
        if ema:
            metadata["weights"] = "ema"
        metadata["base_model"] = base_plan.identity.base.name
        assert one.metadata() == metadata
    names = {path.name for path in expected.parent.iterdir()}
    assert {path.name for path in made.iterdir()} == names
    for text in names - {ADAPTER_NAME}:
        assert (made / text).read_text() == (expected.parent / text).read_text()


def test_the_state_of_another_plan_is_refused(
    model: torch.nn.Module, base_plan: Plan, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(tmp_path, EXAMPLES["lora"](model))
    with pytest.raises(CheckpointError, match="not the state of this plan"):
        write_checkpoint_adapter(checkpoint, base_plan, STEP, tmp_path)
    (checkpoint / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not the state of this plan"):
        write_checkpoint_adapter(checkpoint, base_plan, STEP, tmp_path)
    (checkpoint / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not the state of this plan"):
        write_checkpoint_adapter(checkpoint, base_plan, STEP, tmp_path)
    full_rank = plan_with(base_plan, EXAMPLES["lora"](model)).identity.model_copy(
        update={"adapter": None}
    )
    with pytest.raises(CheckpointError, match="no adapter"):
        write_checkpoint_adapter(
            checkpoint_of(tmp_path, EXAMPLES["lora"](model)),
            base_plan.model_copy(update={"identity": full_rank}),
            STEP,
            tmp_path,
        )


def test_neither_torch_nor_numpy_is_imported() -> None:
    program = (
        "import sys, trainer_core.export.checkpoint_adapter;"
        "assert not {'torch', 'numpy', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
