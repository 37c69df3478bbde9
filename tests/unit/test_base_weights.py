"""The transformer is loaded as diffusers loads it, and everything wrong with a file is named."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import load_transformer
from trainer_core.precision.base_weights import allocate, joined

FILE = "diffusion_pytorch_model.safetensors"
INDEX = f"{FILE}.index.json"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base model's transformer, to be damaged."""
    shutil.copytree(tiny_folder / "transformer", tmp_path / "base" / "transformer")
    return tmp_path / "base"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "transformer" / FILE
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def split(folder: Path, parts: int) -> dict[str, str]:
    """Replace the single file by several and an index; returns the index's map."""
    part = folder / "transformer"
    tensors = load_file(part / FILE)
    names = sorted(tensors)
    weight_map = {}
    for number in range(parts):
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-{parts:05d}.safetensors"
        own = names[number::parts]
        save_file({name: tensors[name] for name in own}, part / file)
        weight_map |= dict.fromkeys(own, file)
    (part / FILE).unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Mapping[str, Any]) -> None:
    (folder / "transformer" / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    dtype = next(model.parameters()).dtype

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    return {
        "hidden_states": normal(2, 16, 8, 8),
        "timesteps": torch.tensor([500.0, 20.0]),
        "encoder_hidden_states_t5": normal(2, 5, 48),
        "encoder_hidden_states_llama3": normal(3, 2, 5, 64),
        "pooled_embeds": normal(2, 64),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 3])
def test_it_loads_what_diffusers_loads(folder: Path, dtype: torch.dtype, parts: int) -> None:
    if parts > 1:
        split(folder, parts)
    stock = HiDreamImageTransformer2DModel.from_pretrained(
        folder / "transformer", dtype=dtype, use_safetensors=True, local_files_only=True
    )

    ours = load_transformer(folder, dtype)

    expected, found = stock.state_dict(), ours.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(found[name].dtype is expected[name].dtype for name in expected)
    assert dict(ours.named_buffers()).keys() == dict(stock.named_buffers()).keys()
    assert [p.requires_grad for p in ours.parameters()] == [
        p.requires_grad for p in stock.parameters()
    ]
    assert ours.training is stock.training is False
    own_path = {"_name_or_path": None}
    assert {**ours.config, **own_path} == {**stock.config, **own_path}
    assert ours.dtype is stock.dtype
    with torch.no_grad():
        assert torch.equal(ours(**inputs(ours)).sample, stock(**inputs(stock)).sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_other_floating_types_are_cast(folder: Path, dtype: torch.dtype) -> None:
    expected = load_transformer(folder, torch.float32).state_dict()
    rewrite(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))

    found = load_transformer(folder, torch.float32).state_dict()

    assert all(torch.equal(found[name], expected[name].to(dtype).float()) for name in expected)


def cut_off(folder: Path) -> None:
    file = folder / "transformer" / FILE
    file.write_bytes(file.read_bytes()[:-100])


def cut_off_in_the_header(folder: Path) -> None:
    file = folder / "transformer" / FILE
    file.write_bytes(file.read_bytes()[:500])


def lengthen(folder: Path) -> None:
    with (folder / "transformer" / FILE).open("ab") as file:
        file.write(b"1234")


def lack_one(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("x_embedder.proj.bias"))


def hold_another(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"pos_embed": torch.zeros(3)}))


def turn_one(folder: Path) -> None:
    name = "caption_projection.0.linear.weight"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].t().contiguous()}))


def make_one_whole(folder: Path) -> None:
    name = "x_embedder.proj.bias"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int64)}))


def delete_a_file(folder: Path) -> None:
    weight_map = split(folder, 2)
    (folder / "transformer" / weight_map["x_embedder.proj.bias"]).unlink()


def index_a_tensor_that_is_elsewhere(folder: Path) -> None:
    weight_map = split(folder, 2)
    files = sorted(set(weight_map.values()))
    other = files[1 - files.index(weight_map["x_embedder.proj.bias"])]
    write_index(folder, {**weight_map, "x_embedder.proj.bias": other})


def hold_one_twice(folder: Path) -> None:
    weight_map = split(folder, 2)
    name = "x_embedder.proj.bias"
    tensors = {f: load_file(folder / "transformer" / f) for f in sorted(set(weight_map.values()))}
    value = tensors[weight_map[name]][name]
    for file, own in tensors.items():
        save_file({**own, name: value}, folder / "transformer" / file)


def lead_out_of_the_folder(folder: Path) -> None:
    weight_map = split(folder, 2)
    write_index(folder, {**weight_map, "x_embedder.proj.bias": "../other.safetensors"})


def lose_the_index(folder: Path) -> None:
    split(folder, 2)
    (folder / "transformer" / INDEX).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, rf"{FILE} is cut off: .* ends at byte \d+ of \d+"),
        (cut_off_in_the_header, rf"{FILE} is cut off in its header"),
        (lengthen, rf"{FILE} has 4 bytes after its last tensor"),
        (lack_one, r"transformer lacks x_embedder\.proj\.bias"),
        (hold_another, r"transformer holds pos_embed, which the model does not have"),
        (turn_one, rf"{FILE}: caption_projection\.0\.linear\.weight has the shape \[64, \d+\]"),
        (make_one_whole, rf"{FILE}: x_embedder\.proj\.bias has the type torch\.int64"),
        (delete_a_file, r"00\d-of-00002\.safetensors cannot be read"),
        (index_a_tensor_that_is_elsewhere, r"safetensors lacks x_embedder\.proj\.bias, which the"),
        (hold_one_twice, r"both hold x_embedder\.proj\.bias"),
        (lead_out_of_the_folder, r"has no weight_map of tensors to files beside it"),
        (lose_the_index, rf"{FILE} cannot be read"),
    ],
)
def test_what_is_wrong_with_the_files_is_named(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)

    with pytest.raises(BaseModelError, match=message) as raised:
        load_transformer(folder, torch.float32)
    assert str(folder) in raised.value.message


def test_tensors_that_do_not_lie_together_are_joined_by_a_copy() -> None:
    whole = torch.arange(12.0).view(6, 2)
    top, bottom = whole.split([2, 4])

    assert joined([top, bottom]).data_ptr() == whole.data_ptr()
    for parts in ([bottom, top], [top, top], [top, bottom.clone()], [top, whole[3:]]):
        copy = joined(parts)
        assert torch.equal(copy, torch.cat(parts))
        copy.zero_()
        assert whole.sum() == 66
    columns = whole.split(1, dim=1)
    assert torch.equal(joined(columns), torch.cat(columns))


def test_a_stack_of_different_widths_or_types_is_allocated_one_by_one() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(6, 3), "c": nn.Linear(4, 2)})
    model["c"].half()

    allocate(model, CPU, stacks=[("a", "b"), ("a", "c")])

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {
        "a.weight": (2, 4), "a.bias": (2,), "b.weight": (3, 6), "b.bias": (3,),
        "c.weight": (2, 4), "c.bias": (2,),
    }  # fmt: skip
    assert model["c"].weight.dtype is torch.half
