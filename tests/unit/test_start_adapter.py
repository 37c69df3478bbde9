"""A run starts from an adapter file of any writer, with the change that the file makes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapters import EXAMPLES, PATHS, Example, exported, lokr_example, lora_example
from tests.support.lycoris_oracle import made_by_lycoris, meta_model
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import LinearShape, hidream_linears, lokr_scale
from trainer_core.errors import AdapterFileError
from trainer_core.export.adapter_tensors import read_tensors
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.export.start_file import find_start, start_named
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


def checkpoint_of(example: Example, folder: Path, *, has_mean: bool) -> Path:
    """A checkpoint of a run that trains the example; ``has_mean``: that keeps a running mean."""
    run = CheckpointIdentity(
        identity_digest="1" * 64,
        identity={"adapter": example.adapter.model_dump(mode="json")},
        data_digest="2" * 64,
        base_digest="3" * 64,
        matmul="auto",
    )
    others = {name: tensor + 1 for name, tensor in example.parameters.items()}
    trained = TrainedTensors(
        parameters=others if has_mean else example.parameters,
        optimizer_state={f"optim/{name}/exp_avg": each.clone() for name, each in others.items()},
        ema=example.parameters if has_mean else {},
    )
    return write_checkpoint(
        folder, CheckpointFacts(step=7, cursor=7, run=run, scalars={}), trained
    ).path


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


def misfit_of(file: Path, example: Example, linears: tuple[LinearShape, ...]) -> str | None:
    found = find_start(file)
    assert found.header is not None
    stored = stored_adapter(found.name, found.header, linears, found.state)
    return misfit(example.adapter, stored, linears)


def test_what_does_not_fit_is_named_with_the_way_out(
    base: nn.Module, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    full = lokr_example(base, factor=4, dim=16384, full_matrix=True)
    fewer = lokr_example(base, factor=4, dim=16384, full_matrix=True, paths=PATHS[1:])
    cases: dict[str, tuple[Example, Example]] = {
        "it holds a LoKr, and this run trains a LoRA: set lora_type to lycoris and describe it in "
        "the LyCORIS config": (full, lora_example(base, rank=8, alpha=8.0)),
        "it holds a LoRA, and this run trains a LoKr: set lora_type to standard and lora_rank to "
        "its rank": (lora_example(base, rank=8, alpha=8.0), full),
        "its rank is 8 and lora_rank is 4: set lora_rank to it": (
            lora_example(base, rank=8, alpha=8.0),
            lora_example(base, rank=4, alpha=8.0),
        ),
        f"it has 1 modules that this run does not adapt ({PATHS[0]}): name the file's modules in "
        "apply_preset in the LyCORIS config": (full, fewer),
        f"it lacks 1 of the 9 modules that this run adapts ({PATHS[0]}): name the file's modules "
        "in apply_preset in the LyCORIS config": (fewer, full),
        f"9 of its 9 modules have other matrices than this run's, such as {PATHS[0]} with w1 4 x "
        "4, w2 32 x 32 there and w1 8 x 8, w2 16 x 16 here: set factor, linear_dim, full_matrix "
        "and decompose_both as they were (factor 4 fits)": (
            full,
            lokr_example(base, factor=8, dim=16384, full_matrix=True),
        ),
    }
    for number, (words, (stored, wanted)) in enumerate(cases.items()):
        file = stored.write(tmp_path / str(number))

        assert misfit_of(file, wanted, linears) == words
        assert misfit_of(file, stored, linears) is None


def test_a_file_of_another_base_model_is_told_by_the_sizes(base: nn.Module, tmp_path: Path) -> None:
    example = lokr_example(base, factor=4, dim=16384, full_matrix=True)
    wider = hidream_linears({**base.config, "num_attention_heads": 8})

    words = misfit_of(example.write(tmp_path / "file"), example, wider)

    assert words is not None
    assert words.startswith(
        f"it was made for another base model: {PATHS[0]} is a linear layer of 128 x 128 there, and"
    )


def changed(file: Path, change: Callable[[Tensors], Any]) -> Path:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"lora_te1_a.lora_up.weight": torch.ones(1, 1)}), "text encoders"),
        (lambda t: t.update({f"transformer.{PATHS[0]}.dora_scale": torch.ones(1)}), "a DoRA"),
        (lambda t: t.update({"lora_unet_x.hada_w1_a": torch.ones(1)}), "a LoHa"),
        (lambda t: t.update({"transformer.x.lora_A.weight": torch.ones(1)}), "no linear layer"),
        (lambda t: t.update({f"{PATHS[0]}.lora_A.weight": torch.ones(8, 128)}), "the same tensor"),
        (
            lambda t: t.update({f"transformer.{PATHS[0]}.lora_A.weight": torch.ones(8).char()}),
            "in I8",
        ),
    ],
)
def test_a_file_that_is_no_adapter_of_this_model_is_refused(
    change: Callable[[Tensors], Any],
    words: str,
    base: nn.Module,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    example = lora_example(base, rank=8, alpha=8.0)
    file = changed(example.write(tmp_path / "file"), change)

    with pytest.raises(AdapterFileError, match=words):
        misfit_of(file, example, linears)


def test_places_that_a_path_may_mean(base: nn.Module, tmp_path: Path) -> None:
    """A file, a result, an output folder, and SimpleTuner's checkpoint folder."""
    output = tmp_path / "output"
    output.mkdir()
    file = EXAMPLES["lora"](base).write(output / "result")

    digests = {
        start_named(name, (tmp_path / "elsewhere", tmp_path)).sha256
        for name in ("output", "output/result", f"output/result/{ADAPTER_NAME}", str(file))
    }

    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.safetensors", r"none\.safetensors is in none of these places: .*name an adapter"),
        ("owner/name", "a repository of the Hugging Face Hub is not read: download the file"),
        (f"run_{'0' * 32}", "is in the service: download it"),
        ("pickle.pt", r"is no \.safetensors file, and no others are read"),
        ("empty", f"holds no {ADAPTER_NAME}: name an adapter file"),
        ("cut.safetensors", "is cut off"),
        ("nan.safetensors", r"two holds values that are not finite \(NaN or infinity\)"),
        (
            "damaged/step-00000007",
            r"is damaged: it differs from the manifest\.json beside it in its SHA-256",
        ),
        ("full/step-00000007", "is a checkpoint of full-rank training: it has no adapter"),
    ],
)
def test_what_cannot_be_started_from_is_named(
    name: str, words: str, base: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle.pt").write_bytes(b"x")
    save_file({"one": torch.ones(9)}, tmp_path / "cut.safetensors")
    with (tmp_path / "cut.safetensors").open("r+b") as stream:
        stream.truncate(90)
    tensors = {"one": torch.ones(400_000), "two": torch.ones(400_000)}
    tensors["two"][-1] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    example = EXAMPLES["lokr-full"](base)
    damaged = checkpoint_of(example, tmp_path / "damaged", has_mean=False)
    with (damaged / "state.safetensors").open("r+b") as stream:
        stream.seek(-1000, 2)
        byte = stream.read(1)[0]
        stream.seek(-1000, 2)
        stream.write(bytes([byte ^ 1]))
    full = checkpoint_of(example, tmp_path / "full", has_mean=False)
    manifest = json.loads((full / "manifest.json").read_text())
    manifest["identity"]["adapter"] = None
    (full / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(AdapterFileError, match=words):
        start_named(name, (tmp_path,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_found_wherever_they_are(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    """Also large, small and negative numbers are not taken for them."""
    limits = torch.finfo(dtype)
    draw = torch.Generator().manual_seed(3)
    plain = torch.randn(300_001, generator=draw).to(dtype)
    plain[:4] = torch.tensor([limits.max, limits.min, limits.tiny, -limits.eps], dtype=dtype)
    file = tmp_path / "file.safetensors"
    save_file({"first": torch.zeros(3, dtype=torch.int8), "values": plain}, file)
    find_start(file)

    for position in (0, 150_000, 300_000):
        bad = plain.clone()
        bad[position] = value
        save_file({"first": torch.zeros(3, dtype=torch.int8), "values": bad}, file)
        with pytest.raises(AdapterFileError, match="values holds values that are not finite"):
            find_start(file)
