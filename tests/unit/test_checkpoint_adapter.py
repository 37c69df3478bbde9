"""The adapter that is made of a checkpoint without torch equals the one that training writes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.adapters import EXAMPLES, Example
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.errors import CheckpointError
from trainer_core.export.checkpoint_adapter import write_checkpoint_adapter
from trainer_core.export.origin import Origin, Weights
from trainer_core.hidream.loading import load_transformer

STEP = 7
IDENTITY = CheckpointIdentity(
    identity_digest="1" * 64, identity={}, data_digest="2" * 64, base_digest="3" * 64, matmul="auto"
)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> torch.nn.Module:
    return load_transformer(tiny_folder, torch.float32)


def origin(weights: Weights = "live") -> Origin:
    return Origin(base_model="hidream-tiny", step=STEP, weights=weights)


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
@pytest.mark.parametrize("weights", ["live", "ema"])
def test_the_files_are_those_of_training_byte_for_byte(
    model: torch.nn.Module, tmp_path: Path, name: str, weights: Weights
) -> None:
    example = EXAMPLES[name](model)
    expected = example.write(tmp_path / "trained", weights).parent
    checkpoint = checkpoint_of(tmp_path, example, ema=weights == "ema")
    made = tmp_path / "made"
    made.mkdir()

    count = write_checkpoint_adapter(checkpoint, example.adapter, origin(weights), made)

    assert count == sum(tensor.numel() for tensor in example.parameters.values())
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    assert files == {path.name: path.read_bytes() for path in expected.iterdir()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_is_a_safetensors_file_with_the_tensors_in_fp32(
    model: torch.nn.Module, tmp_path: Path, name: str
) -> None:
    """The bytes are those of the library; only its metadata is in an order that varies."""
    file = EXAMPLES[name](model).write(tmp_path / "trained")
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, tmp_path / "theirs", metadata=metadata)

    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert metadata["modules"] == "9"
    theirs = (tmp_path / "theirs").read_bytes()
    size_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert file.read_bytes()[-size_bytes:] == theirs[-size_bytes:]
    assert len(file.read_bytes()) == len(theirs)


def test_the_state_of_another_plan_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    lora, lokr = EXAMPLES["lora"](model), EXAMPLES["lokr-mixed"](model)
    checkpoint = checkpoint_of(tmp_path, lora)

    def refused(words: str, weights: Weights = "live") -> None:
        with pytest.raises(CheckpointError, match=words):
            write_checkpoint_adapter(checkpoint, lokr.adapter, origin(weights), tmp_path)

    refused("not the state of this plan: it lacks double_stream_blocks")
    refused("not the state of this plan", "ema")
    (checkpoint / "state.safetensors").write_bytes(b"torn")
    refused("not the state of this plan")
    (checkpoint / "state.safetensors").unlink()
    refused("state.safetensors is missing")


def test_neither_torch_nor_numpy_is_imported() -> None:
    program = (
        "import sys, trainer_core.export.checkpoint_adapter;"
        "assert not {'torch', 'numpy', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
