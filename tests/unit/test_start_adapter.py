"""A run starts from an adapter file of any writer, with the change that the file makes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapters import (
    EXAMPLES,
    PATHS,
    Example,
    checkpoint_of,
    exported,
    lokr_example,
    lora_example,
)
from tests.support.lycoris_oracle import made_by_lycoris, meta_model
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import LinearShape, hidream_linears, lokr_scale
from trainer_core.export.adapter_tensors import read_tensors
from trainer_core.export.start_file import find_start
from trainer_core.export.start_values import start_values
from trainer_core.weights.start_adapter import misfit, stored_adapter

Tensors = dict[str, torch.Tensor]

NAMES: Final[dict[str, Callable[[str], str]]] = {
    "diffusers": lambda path: f"transformer.{path}",
    "comfyui": lambda path: f"diffusion_model.{path}",
    "bare": lambda path: path,
    "lycoris": lambda path: f"lycoris_{path.replace('.', '_')}",
    "kohya": lambda path: f"lora_unet_{path.replace('.', '_')}",
}
"""Writer → how it names a linear layer."""


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return meta_model(dict(read_base_model(tiny_folder).transformer_config))


@pytest.fixture(scope="module")
def linears(base: HiDreamImageTransformer2DModel) -> tuple[LinearShape, ...]:
    return hidream_linears(base.config)


def started(file: Path, example: Example, linears: tuple[LinearShape, ...]) -> Tensors:
    """The start values of a run that trains the example's adapter."""
    found = find_start(file)
    assert found.header is not None
    assert found.path is not None
    stored = stored_adapter(found.name, found.header, linears, found.state)
    assert misfit(example.adapter, stored, linears) is None
    return start_values(example.adapter, read_tensors(found.path, linears, found.state).modules)


def deltas_of(values: Tensors, adapter: LokrAdapter | LoraAdapter) -> dict[str, torch.Tensor]:
    """What a network with these parameters adds to each weight, in float64."""
    if isinstance(adapter, LoraAdapter):
        scale = adapter.alpha / adapter.rank
        return {
            path: scale * values[f"{path}.lora_B"].double() @ values[f"{path}.lora_A"].double()
            for path in adapter.modules
        }
    deltas = {}
    for module in adapter.modules:
        own = {
            name.rpartition(".")[2]: value.double()
            for name, value in values.items()
            if name.startswith(f"{module.path}.")
        }
        whole = [own[w] if w in own else own[f"{w}_a"] @ own[f"{w}_b"] for w in ("w1", "w2")]
        scale = adapter.multiplier * lokr_scale(module, {n: tuple(v.shape) for n, v in own.items()})
        deltas[module.path] = scale * float(own.get("scalar", 1.0)) * torch.kron(*whole)
    return deltas


def assert_near(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for path, delta in wanted.items():
        assert (found[path] - delta).norm() <= 1e-6 * delta.norm(), path


@pytest.mark.parametrize("name", EXAMPLES)
def test_from_an_own_file_the_same_tensors_would_be_written_again(
    name: str, base: nn.Module, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    example = EXAMPLES[name](base)
    file = example.write(tmp_path / name)

    values = started(file, example, linears)

    assert values.keys() == example.parameters.keys()
    assert all(value.dtype is torch.float32 for value in values.values())
    assert_near(deltas_of(values, example.adapter), example.deltas)
    stored = load_file(file)
    written = exported(values, example.adapter)
    assert written.keys() == stored.keys()
    # With a scalar and a factor that is no power of two, the last bit of w1 may be another.
    is_exact = name not in {"lokr-mixed", "lokr-both-low-rank"}
    for key, tensor in stored.items():
        if is_exact or not key.rpartition(".")[2].startswith("lokr_w1"):
            assert torch.equal(written[key], tensor), key
        else:
            assert torch.allclose(written[key], tensor, rtol=2e-7, atol=0), key


@pytest.mark.parametrize("writer", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lora_of_every_writer_starts_with_the_change_of_its_file(
    writer: str,
    dtype: torch.dtype,
    base: nn.Module,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    """The run's own alpha is another one."""
    alpha, rank = 3.0, 8
    example = lora_example(base, rank=rank, alpha=8.0)
    down, up = ("lora_A", "lora_B") if writer in ("diffusers", "bare") else ("lora_down", "lora_up")
    tensors: Tensors = {}
    deltas = {}
    for path in PATHS:
        a, b = (example.parameters[f"{path}.{part}"].to(dtype) for part in ("lora_A", "lora_B"))
        at = NAMES[writer](path)
        tensors |= {f"{at}.{down}.weight": a, f"{at}.{up}.weight": b}
        if writer != "diffusers":
            tensors[f"{at}.alpha"] = torch.tensor(alpha, dtype=dtype)
        deltas[path] = alpha / rank * b.double() @ a.double()
    noted = {"transformer.r": rank, "transformer.lora_alpha": alpha}
    metadata = {"lora_adapter_metadata": json.dumps(noted)} if writer == "diffusers" else {}
    save_file(tensors, tmp_path / "lora.safetensors", metadata=metadata)

    values = started(tmp_path / "lora.safetensors", example, linears)

    assert_near(deltas_of(values, example.adapter), deltas)


@pytest.mark.parametrize("writer", NAMES)
@pytest.mark.parametrize("is_decomposed", [False, True])
def test_lokr_of_lycoris_starts_with_the_change_that_lycoris_makes(
    writer: str,
    is_decomposed: bool,
    base: HiDreamImageTransformer2DModel,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    """LyCORIS writes the file itself, with a scalar and an alpha of its own."""
    dim, alpha = (2, 3.0) if is_decomposed else (16384, 1.0)
    network = made_by_lycoris(
        base,
        {
            "linear_dim": dim,
            "linear_alpha": alpha,
            "factor": 4,
            "full_matrix": not is_decomposed,
            "use_scalar": True,
            "apply_preset": {"target_name": list(PATHS), "use_fnmatch": True},
        },
    )
    draw = torch.Generator().manual_seed(5)
    example = lokr_example(
        base, factor=4, dim=dim, alpha=1.0, full_matrix=not is_decomposed, scalar=0.5
    )
    tensors: Tensors = {}
    deltas = {}
    written = {NAMES["lycoris"](path): path for path in PATHS}
    for module in network.loras:
        module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
            module.alpha.fill_(alpha if is_decomposed else dim)
            path = written[module.lora_name]
            deltas[path] = module.get_weight(None).double() * module.scalar.double()
        at = NAMES[writer](path)
        tensors |= {f"{at}.{key}": value.clone() for key, value in module.state_dict().items()}
    save_file(tensors, tmp_path / "lokr.safetensors")

    values = started(tmp_path / "lokr.safetensors", example, linears)

    assert_near(deltas_of(values, example.adapter), deltas)


@pytest.mark.parametrize("has_mean", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
def test_from_a_checkpoint_the_tensors_are_those_of_its_result(
    name: str,
    has_mean: bool,
    base: nn.Module,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    example = EXAMPLES[name](base)
    checkpoint = checkpoint_of(example, tmp_path, has_mean=has_mean)

    for place in (checkpoint, checkpoint / "state.safetensors"):
        values = started(place, example, linears)

        assert values.keys() == example.parameters.keys()
        for key, tensor in example.parameters.items():
            assert torch.equal(values[key], tensor), key


def test_from_a_checkpoint_with_other_factors_the_change_is_the_same(
    base: nn.Module, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    lokr = EXAMPLES["lokr-mixed"](base)
    other = lokr_example(base, factor=4, dim=12, alpha=1.0, multiplier=1.0)
    assert isinstance(lokr.adapter, LokrAdapter)
    place = checkpoint_of(lokr, tmp_path / "lokr", has_mean=False)
    assert_near(deltas_of(started(place, other, linears), other.adapter), lokr.deltas)

    lora = lora_example(base, rank=8, alpha=3.0)
    other = lora_example(base, rank=8, alpha=16.0)
    place = checkpoint_of(lora, tmp_path / "lora", has_mean=False)
    assert_near(deltas_of(started(place, other, linears), other.adapter), lora.deltas)
