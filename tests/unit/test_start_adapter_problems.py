"""A file that a run cannot start from is named, with what differs and the way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    lokr_example,
    lora_example,
)
from tests.support.lycoris_oracle import meta_model
from trainer_core.base_models.describe import read_base_model
from trainer_core.checkpoint.layout import opened, sealed
from trainer_core.config.plan.shapes import LinearShape, hidream_linears
from trainer_core.errors import AdapterFileError
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.export.start_file import check_upload, find_start, start_named
from trainer_core.weights.start_adapter import misfit, stored_adapter

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return meta_model(dict(read_base_model(tiny_folder).transformer_config))


@pytest.fixture(scope="module")
def linears(base: HiDreamImageTransformer2DModel) -> tuple[LinearShape, ...]:
    return hidream_linears(base.config)


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
        ("il/none.safetensors", r"none\.safetensors is in none of .*; name an adapter file"),
        ("running/checkpoints", f"holds no {ADAPTER_NAME}: name an adapter file"),
        ("full", "full holds checkpoints: name one of the step-… folders in it"),
        ("a/b:c.safetensors", "a repository of the Hugging Face Hub is not read: download"),
        ("owner/name", "a repository of the Hugging Face Hub is not read: download the file"),
        (f"run_{'0' * 32}", "is in the service: download it"),
        ("pickle.pt", r"is no \.safetensors file, and no others are read"),
        ("empty", f"holds no {ADAPTER_NAME}: name an adapter file"),
        ("running", r"running has no result yet: name one of the checkpoints in .*/checkpoints"),
        ("cut.safetensors", "is cut off"),
        ("nan.safetensors", r"two holds values that are not finite \(NaN or infinity\)"),
        (
            "damaged/step-00000007",
            r"is damaged: it differs from the manifest\.json of its folder in its SHA-256",
        ),
        ("full/step-00000007", "is a checkpoint of full-rank training: it has no adapter"),
    ],
)
def test_what_cannot_be_started_from_is_named(
    name: str, words: str, base: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "running" / "checkpoints").mkdir(parents=True)
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
    manifest = opened((full / "manifest.json").read_bytes())
    manifest = manifest.model_copy(update={"identity": {"adapter": None}})
    (full / "manifest.json").write_text(sealed(manifest).model_dump_json())

    with pytest.raises(AdapterFileError, match=words):
        start_named(name, (tmp_path,))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b'"alpha":', b'"alpha":9'),
        lambda body: body[: len(body) // 2],
        lambda body: body.replace(b'"checkpoint"', b'"result"'),
        lambda body: b"[]",
    ],
    ids=["alpha", "cut", "kind", "list"],
)
@pytest.mark.parametrize("named", ["", "state.safetensors"])
def test_a_checkpoint_with_a_damaged_manifest_is_refused(
    change: Callable[[bytes], bytes], named: str, base: nn.Module, tmp_path: Path
) -> None:
    folder = checkpoint_of(lora_example(base, rank=2, alpha=1.0), tmp_path, has_mean=False)
    manifest = folder / "manifest.json"
    before = manifest.read_bytes().replace(b'"alpha": ', b'"alpha":')
    assert change(before) != before
    manifest.write_bytes(change(before))

    with pytest.raises(AdapterFileError, match=r"step-00000007/manifest\.json is damaged"):
        find_start(folder / named)


def test_an_upload_that_this_machine_cannot_read_is_not_its_owners_mistake(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "gone")

    with pytest.raises(OSError, match="symbolic links"):
        check_upload(tmp_path / "gone", "theirs.safetensors")
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(AdapterFileError, match=r"theirs\.safetensors is cut off"):
        check_upload(tmp_path / "bad", "theirs.safetensors")


def test_a_manifest_of_another_program_is_passed_over(base: nn.Module, tmp_path: Path) -> None:
    file = EXAMPLES["lora"](base).write(tmp_path / "theirs")
    file.with_name("manifest.json").write_text('{"manifest_version": 3, "files": "all"}')

    assert find_start(file).path == find_start(file.parent).path == file


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
