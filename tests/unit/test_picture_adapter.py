"""The further adapter of pictures: what it does to a model, and which file it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.adapters import EXAMPLES, PATHS, checkpoint_of
from tests.unit.config_examples import import_small
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import LinearShape, hidream_linears
from trainer_core.errors import AdapterFileError
from trainer_core.export.adapter_file import read_modules
from trainer_core.hidream.loading import load_transformer
from trainer_core.local.picture_adapter import picture_adapter
from trainer_core.painting.attach import attach_stored, laid_over
from trainer_core.precision.linear8 import hold_in_8bit

CATS: dict[str, Any] = {"id": "cats", "caption_strategy": "filename", "instance_data_dir": "cats"}


@pytest.fixture(scope="module")
def linears(tiny_folder: Path) -> tuple[LinearShape, ...]:
    return tuple(hidream_linears(read_base_model(tiny_folder).transformer_config))


def layer_at(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


@pytest.mark.parametrize("is_8bit", [False, True])
@pytest.mark.parametrize("kind", ["lora", "lokr-both-low-rank"])
def test_it_adds_its_delta_to_what_is_trained(
    tiny_folder: Path, linears: tuple[LinearShape, ...], tmp_path: Path, kind: str, is_8bit: bool
) -> None:
    model = load_transformer(tiny_folder, torch.float32)
    if is_8bit:  # as fused blocks have their linears
        hold_in_8bit(model, torch.device("cpu"), torch.int8)
    weights = {path: layer_at(model, path).weight.detach().double() for path in PATHS}
    trained, further = EXAMPLES["lokr-mixed"](model), EXAMPLES[kind](model)
    attach_stored(model, read_modules(trained.write(tmp_path / "trained"), linears), 1.0)
    modules = read_modules(further.write(tmp_path / "further"), linears)
    before = {name: id(part) for name, part in model.named_modules()}
    needs = [each.requires_grad for each in model.parameters()]
    model.train()

    with laid_over(model, modules, 0.7), torch.no_grad():
        for path in PATHS:
            layer = layer_at(model, path)
            rows = torch.randn(3, weights[path].shape[1])
            delta = trained.deltas[path] + 0.7 * further.deltas[path]
            wanted = rows.double() @ (weights[path] + delta).T
            torch.testing.assert_close(layer(rows).double(), wanted, rtol=1e-4, atol=1e-4)

    assert {name: id(part) for name, part in model.named_modules()} == before
    assert [each.requires_grad for each in model.parameters()] == needs
    assert all(part.training for part in model.modules())


def test_layers_are_put_back_after_an_error(
    tiny_folder: Path, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    model = load_transformer(tiny_folder, torch.float32)
    modules = read_modules(EXAMPLES["lora"](model).write(tmp_path / "further"), linears)
    before = {name: id(part) for name, part in model.named_modules()}

    with pytest.raises(KeyboardInterrupt), laid_over(model, modules, 1.0):
        raise KeyboardInterrupt

    assert {name: id(part) for name, part in model.named_modules()} == before


def plan_of(path: str | None) -> Plan:
    config = {"validation_step_interval": 2, "output_dir": "out", "validation_adapter_path": path}
    return import_small(config, backends=[CATS], source="local").plan


def test_a_file_or_the_folder_of_a_checkpoint_is_looked_up_beside_the_config(
    tiny_folder: Path, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    example = EXAMPLES["lora"](load_transformer(tiny_folder, torch.float32))
    file = example.write(tmp_path / "config")
    checkpoint = checkpoint_of(example, tmp_path / "config/run", has_mean=False)
    folders = (tmp_path, tmp_path / "config")

    assert picture_adapter(plan_of(file.name), folders, linears) == str(file)
    named = str(checkpoint.relative_to(tmp_path / "config"))
    assert picture_adapter(plan_of(named), folders, linears) == str(checkpoint)
    assert picture_adapter(plan_of(None), folders, linears) is None


def test_one_that_is_missing_or_of_another_model_is_told_before_training(
    tiny_folder: Path, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    example = EXAMPLES["lora"](load_transformer(tiny_folder, torch.float32))
    example.write(tmp_path / "further")
    few = [each for each in linears if each.path not in PATHS]

    with pytest.raises(AdapterFileError, match=r"^validation_adapter_path: other is in none of"):
        picture_adapter(plan_of("other"), (tmp_path,), linears)
    with pytest.raises(AdapterFileError, match=r"^validation_adapter_path: .*pytorch_lora"):
        picture_adapter(plan_of("further"), (tmp_path,), few)
