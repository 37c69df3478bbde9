"""Each kind of adapter file × each reader × each base: the same change of the output, counted."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
from lycoris import create_lycoris_from_weights
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapters import (
    EXAMPLES,
    PATHS,
    Example,
    add_to_outputs,
    add_to_weights,
    forward,
)
from trainer_core.adapters.attach import attach_adapter
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.export.adapter_file import read_adapter
from trainer_core.export.merge import merge_folder, merge_into
from trainer_core.hidream.loading import load_transformer
from trainer_core.precision.quanto import quantize_frozen

Reader = Callable[[nn.Module, Path], int]
"""Puts the adapter of a file on a model and counts its modules."""


def lycoris_on(model: nn.Module, file: Path) -> int:
    """Patched forwards."""
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(file), model)
    network.apply_to()
    network.eval()
    return len(network.loras)


def lycoris_into(model: nn.Module, file: Path) -> int:
    """Merged weights, as the card says."""
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(file), model)
    network.merge_to()
    return len(network.loras)


def diffusers_on(model: nn.Module, file: Path) -> int:
    pipe = HiDreamImagePipeline(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, text_encoder_3=None, tokenizer_3=None, text_encoder_4=None,
        tokenizer_4=None, transformer=model,
    )  # fmt: skip
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return sum(isinstance(part, LoraLayer) for part in model.modules())


def diffusers_without_metadata(model: nn.Module, file: Path) -> int:
    """Other tools rewrite files and drop what they do not know."""
    bare = file.with_name("bare.safetensors")
    save_file(load_file(file), bare)
    return diffusers_on(model, bare)


def we_into(model: Any, file: Path) -> int:
    adapter = read_adapter(file, hidream_linears(model.config))
    return len(merge_into(model, adapter, 1.0).changed)


def ours_on(model: Any, example: Example) -> None:
    """What is trained: our own modules with the example's values."""
    parameters = attach_adapter(model, example.adapter, seed=1).parameters()
    assert parameters.keys() == example.parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(example.parameters[name])


ON: dict[str, tuple[Reader, ...]] = {
    "lokr": (lycoris_on,),
    "lora": (diffusers_on, diffusers_without_metadata),
}
"""Beside the weights, which may be quantised."""
INTO: dict[str, tuple[Reader, ...]] = {"lokr": (lycoris_into, we_into), "lora": (we_into,)}
"""Into the weights, which may be quantised afterwards."""


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    """Nobody changes it."""
    return load_transformer(tiny_folder, torch.float32)


@pytest.fixture(scope="module")
def plain(base: HiDreamImageTransformer2DModel) -> Mapping[str, torch.Tensor]:
    """What the base answers, in full and with int8 weights."""
    return {"fp32": forward(base), "int8": changed(base, quantised)}


@pytest.fixture(scope="module", params=EXAMPLES)
def exported(
    request: pytest.FixtureRequest,
    base: HiDreamImageTransformer2DModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Example, Path]:
    example = EXAMPLES[request.param](base)
    return example, example.write(tmp_path_factory.mktemp("exported") / request.param)


def changed(base: nn.Module, *changes: Callable[[nn.Module], object]) -> torch.Tensor:
    """The answer of a copy of the base after the changes, in their order."""
    model = copy.deepcopy(base)
    for change in changes:
        change(model)
    return forward(model)


def quantised(model: nn.Module) -> None:
    assert quantize_frozen(model, "int8-quanto")


def assert_same(read: torch.Tensor, wanted: torch.Tensor, base: torch.Tensor) -> None:
    """The error is measured against what the adapter does, and that is not little."""
    effect = (wanted - base).norm()
    assert effect >= 0.05 * base.norm()
    assert (read - wanted).norm() <= 1e-3 * effect


def test_every_reader_gets_the_trained_change(
    base: HiDreamImageTransformer2DModel,
    plain: Mapping[str, torch.Tensor],
    exported: tuple[Example, Path],
) -> None:
    example, file = exported
    wanted = changed(base, partial(add_to_weights, deltas=example.deltas))
    kind = example.adapter.kind

    assert_same(changed(base, partial(ours_on, example=example)), wanted, plain["fp32"])
    for reader in (*ON[kind], *INTO[kind]):
        model = copy.deepcopy(base)
        assert reader(model, file) == len(PATHS)
        assert_same(forward(model), wanted, plain["fp32"])


def test_every_reader_gets_it_on_int8_weights(
    base: HiDreamImageTransformer2DModel,
    plain: Mapping[str, torch.Tensor],
    exported: tuple[Example, Path],
) -> None:
    """Beside quantised weights, or merged and then quantised."""
    example, file = exported
    kind = example.adapter.kind
    beside = changed(base, quantised, partial(add_to_outputs, deltas=example.deltas))
    merged = changed(base, partial(add_to_weights, deltas=example.deltas), quantised)

    ours = changed(base, quantised, partial(ours_on, example=example))
    assert_same(ours, beside, plain["int8"])
    for reader in ON[kind]:
        read = changed(base, quantised, partial(reader, file=file))
        assert_same(read, beside, plain["int8"])
    for reader in INTO[kind]:
        read = changed(base, partial(reader, file=file), quantised)
        assert_same(read, merged, plain["int8"])


def test_a_merged_folder_loads_in_diffusers_with_the_trained_change(
    base: HiDreamImageTransformer2DModel,
    plain: Mapping[str, torch.Tensor],
    tiny_folder: Path,
    exported: tuple[Example, Path],
    tmp_path: Path,
) -> None:
    """fp32 within the bound; what bf16 leaves of it is printed."""
    example, file = exported
    wanted = changed(base, partial(add_to_weights, deltas=example.deltas))
    errors = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        report = merge_folder(
            tiny_folder, file, tmp_path / name, dtype=dtype, multiplier=1.0,
            on_module=lambda done, total: None,
        )  # fmt: skip
        read = forward(load_transformer(tmp_path / name, dtype), dtype)
        errors[name] = float((read - wanted).norm() / (wanted - plain["fp32"]).norm())
        assert len(report.changed) == len(PATHS)

    print(f"{file.parent.name}: bf16 is off by {errors['bf16']:.1%} of the adapter's effect")
    assert errors["fp32"] <= 1e-3
    assert errors["bf16"] < 1
