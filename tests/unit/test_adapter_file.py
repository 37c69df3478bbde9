"""An adapter file is read whole or refused by name; what lycoris passes over is an error here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from lycoris import create_lycoris_from_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapters import EXAMPLES, PATHS, lokr_example, lora_example
from trainer_core.config.plan.shapes import LinearShape, hidream_linears
from trainer_core.errors import AdapterFileError
from trainer_core.export.adapter_file import read_adapter
from trainer_core.hidream.loading import load_transformer

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return load_transformer(tiny_folder, torch.float32)


@pytest.fixture(scope="module")
def linears(base: HiDreamImageTransformer2DModel) -> tuple[LinearShape, ...]:
    return hidream_linears(base.config)


@pytest.fixture(scope="module")
def lokr(base: HiDreamImageTransformer2DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EXAMPLES["lokr-mixed"](base).write(tmp_path_factory.mktemp("files") / "lokr")


@pytest.fixture(scope="module")
def lora(base: HiDreamImageTransformer2DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EXAMPLES["lora"](base).write(tmp_path_factory.mktemp("files") / "lora")


def rewritten(file: Path, place: Path, change: Callable[[Tensors], object]) -> Path:
    """The same file with other tensors under the old metadata."""
    tensors = load_file(file)
    change(tensors)
    with safe_open(file, framework="pt") as opened:
        save_file(tensors, place / "changed.safetensors", metadata=opened.metadata())
    return place / "changed.safetensors"


@pytest.mark.parametrize("name", EXAMPLES)
def test_deltas_are_the_trained_ones(
    name: str,
    base: HiDreamImageTransformer2DModel,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    example = EXAMPLES[name](base)

    read = read_adapter(example.write(tmp_path / name), linears)

    assert read.kind == example.adapter.kind
    assert read.deltas.keys() == example.deltas.keys()
    for path, wanted in example.deltas.items():
        assert (read.deltas[path].matrix() - wanted).norm() <= 1e-6 * wanted.norm()


def test_a_missing_module_is_counted(
    lokr: Path, lora: Path, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    name = PATHS[0].replace(".", "_")

    def drop(tensors: Tensors) -> None:
        for key in [k for k in tensors if name in k or PATHS[0] in k]:
            del tensors[key]

    for file in (lokr, lora):
        with pytest.raises(AdapterFileError, match="holds 8 modules and says that it has 9"):
            read_adapter(rewritten(file, tmp_path, drop), linears)


def test_a_key_of_another_model_is_refused_that_lycoris_passes_over(
    base: HiDreamImageTransformer2DModel,
    lokr: Path,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    def rename(tensors: Tensors) -> None:
        for key in [k for k in tensors if "double_stream_blocks_0" in k]:
            tensors[key.replace("blocks_0", "blocks_7")] = tensors.pop(key)

    file = rewritten(lokr, tmp_path, rename)
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(file), base)

    assert 0 < len(network.loras) < len(PATHS)
    with pytest.raises(AdapterFileError, match="lycoris_double_stream_blocks_7_block_"):
        read_adapter(file, linears)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"lora_te_text.lokr_w1": torch.ones(1, 1)}), "lora_te_text"),
        (lambda t: t.update({f"{key_of(t)}.dora_scale": torch.ones(1)}), "dora_scale"),
        (lambda t: t.update({f"{key_of(t)}.lokr_w1": torch.ones(2, 4)}), "another model"),
        (lambda t: t.update({f"{key_of(t)}.lokr_w1": torch.ones(4)}), r"factor of shape \(4,\)"),
        (lambda t: t[f"{key_of(t)}.lokr_w1"].fill_(torch.nan), "not finite"),
        (lambda t: t.pop(f"{key_of(t)}.lokr_w1"), "lacks lokr_w1"),
        (lambda t: scaled(t, alpha=torch.tensor(torch.nan)), "not finite"),
        (lambda t: scaled(t, alpha=torch.tensor(torch.inf)), "not finite"),
        (lambda t: scaled(t, alpha=torch.ones(2)), "an alpha of 2 numbers"),
        (lambda t: scaled(t, alpha=torch.ones(1), rank=0), "factor of shape"),
        (lambda t: t.clear() or t.update({"weight": torch.ones(1)}), "neither a LoKr nor a LoRA"),
    ],
)
def test_an_inconsistent_lokr_is_refused(
    change: Callable[[Tensors], object],
    words: str,
    lokr: Path,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    with pytest.raises(AdapterFileError, match=words):
        read_adapter(rewritten(lokr, tmp_path, change), linears)


def scaled(tensors: Tensors, *, alpha: torch.Tensor, rank: int = 1) -> None:
    """Another alpha and rank for one module whose w2 is a product."""
    key = next(key for key in tensors if key.endswith(".lokr_w2_a")).removesuffix(".lokr_w2_a")
    tensors[f"{key}.lokr_w2_a"] = tensors[f"{key}.lokr_w2_a"][:, :1].repeat(1, rank)
    tensors[f"{key}.lokr_w2_b"] = tensors[f"{key}.lokr_w2_b"][:1].repeat(rank, 1)
    tensors[f"{key}.alpha"] = alpha


def key_of(tensors: Tensors) -> str:
    return next(key for key in tensors if key.endswith(".lokr_w1")).removesuffix(".lokr_w1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"transformer.{PATHS[0]}.lora_A.weight"), "lacks one of its two"),
        (
            lambda t: t.update({f"transformer.{PATHS[0]}.lora_A.weight": torch.ones(3, 64)}),
            "two ranks",
        ),
        (
            lambda t: t.update({f"transformer.{PATHS[0]}.lora_B.bias": torch.ones(64)}),
            "lora_B.bias",
        ),
        (
            lambda t: t.update(
                {
                    f"transformer.{PATHS[0]}.lora_A.weight": torch.ones(0, 64),
                    f"transformer.{PATHS[0]}.lora_B.weight": torch.ones(64, 0),
                }
            ),
            "factor of shape",
        ),
        (
            lambda t: t.update({f"transformer.{PATHS[0]}.alpha": torch.ones(2)}),
            "an alpha of 2 numbers",
        ),
        (
            lambda t: t.update({f"transformer.{PATHS[0]}.alpha": torch.tensor(torch.nan)}),
            "not finite",
        ),
    ],
)
def test_an_inconsistent_lora_is_refused(
    change: Callable[[Tensors], object],
    words: str,
    lora: Path,
    linears: tuple[LinearShape, ...],
    tmp_path: Path,
) -> None:
    with pytest.raises(AdapterFileError, match=words):
        read_adapter(rewritten(lora, tmp_path, change), linears)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[1]", "not an object"),
        ("{", "not JSON"),
        ('{"lora_alpha": "two"}', "not a number"),
        ('{"lora_alpha": [1, 2]}', "not a number"),
        ('{"lora_alpha": null}', "not a number"),
        ('{"lora_alpha": true}', "not a number"),
        ('{"lora_alpha": NaN}', "not finite"),
        (f'{{"lora_alpha": 1{"0" * 400}}}', "not finite"),
    ],
)
def test_inconsistent_metadata_is_refused(
    config: str, words: str, lora: Path, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    tensors = {key: value for key, value in load_file(lora).items() if ".alpha" not in key}
    file = tmp_path / "counted.safetensors"
    save_file(tensors, file, metadata={"lora_adapter_metadata": config})

    with pytest.raises(AdapterFileError, match=words):
        read_adapter(file, linears)


def test_what_is_no_safetensors_file_is_refused(
    linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(b"\x10\0\0\0\0\0\0\0{}")

    for file in (truncated, tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(
            AdapterFileError, match=r"is cut off in its header|cannot be read: (No such|Is a)"
        ):
            read_adapter(file, linears)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[" * 100_000, "is damaged: its header is nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no safetensors file: its header is no JSON"),
        (b'{"a": \xff}', "no safetensors file: its header is no JSON"),
    ],
    ids=["deep", "long", "bytes"],
)
def test_a_damaged_header_is_told_in_plain_words(
    header: bytes, words: str, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(AdapterFileError) as caught:
        read_adapter(file, linears)

    assert caught.value.message in (
        f"{file} {words}",
        f"{file} is damaged, or {words}",
    )


def test_files_of_other_tools_keep_their_alpha(
    base: HiDreamImageTransformer2DModel, linears: tuple[LinearShape, ...], tmp_path: Path
) -> None:
    """Alpha as a tensor (ComfyUI) or in peft's config in the metadata (diffusers)."""
    rank, alpha = 4, 1.0
    example = lora_example(base, rank=rank, alpha=alpha)
    comfy: Tensors = {}
    diffusers: Tensors = {}
    for path in PATHS:
        down, up = example.parameters[f"{path}.lora_A"], example.parameters[f"{path}.lora_B"]
        comfy |= {
            f"diffusion_model.{path}.lora_down.weight": down,
            f"diffusion_model.{path}.lora_up.weight": up,
            f"diffusion_model.{path}.alpha": torch.tensor(alpha),
        }
        diffusers |= {
            f"transformer.{path}.lora_A.weight": down,
            f"transformer.{path}.lora_B.weight": up,
        }
    save_file(comfy, tmp_path / "comfy.safetensors")
    config = f'{{"transformer.lora_alpha": {alpha}, "transformer.r": {rank}}}'
    save_file(
        diffusers, tmp_path / "diffusers.safetensors", metadata={"lora_adapter_metadata": config}
    )

    for name in ("comfy", "diffusers"):
        read = read_adapter(tmp_path / f"{name}.safetensors", linears)
        for path, wanted in example.deltas.items():
            assert (read.deltas[path].matrix() - wanted).norm() <= 1e-6 * wanted.norm()


class OneLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)


def test_lycoris_takes_alpha_over_dim_twice_when_it_merges_which_our_files_forestall(
    tmp_path: Path,
) -> None:
    """Trap: get_weight() scales, and so does get_diff_weight(); the patched forward scales once."""
    model = OneLinear()
    example = lokr_example(model, factor=4, dim=4, alpha=1.0, paths=("layer",))
    wanted = example.deltas["layer"]
    ours = load_file(example.write(tmp_path / "ours"))
    naive = {
        f"lycoris_{name.replace('layer.', 'layer.lokr_')}": value
        for name, value in example.parameters.items()
    } | {"lycoris_layer.alpha": torch.tensor(1.0)}

    assert (merged_by_lycoris(naive, 1.0) - wanted / 4).norm() <= 1e-5 * wanted.norm()
    assert (merged_by_lycoris(ours, 1.0) - wanted).norm() <= 1e-5 * wanted.norm()


def test_lycoris_forgets_the_loaders_multiplier_when_it_merges(tmp_path: Path) -> None:
    """Trap: so the trained multiplier is in the file, and the card gives strength to merge_to."""
    example = lokr_example(
        OneLinear(), factor=4, dim=64, full_matrix=True, multiplier=0.5, paths=("layer",)
    )
    wanted = example.deltas["layer"]

    merged = merged_by_lycoris(load_file(example.write(tmp_path / "ours")), 0.1)

    assert (merged - wanted).norm() <= 1e-5 * wanted.norm()


@torch.no_grad()
def merged_by_lycoris(tensors: Tensors, multiplier: float) -> torch.Tensor:
    """What LyCORIS adds to the weight of OneLinear."""
    model = OneLinear()
    before = model.layer.weight.double().clone()
    network, _ = create_lycoris_from_weights(multiplier, "", model, weights_sd=tensors)
    network.merge_to()
    return model.layer.weight.double() - before
