"""Merging: refused where it would be lost, measured where the cast takes some of it."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.adapters import EXAMPLES, PATHS, Example
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.errors import AdapterFileError, BaseModelError, OutputError
from trainer_core.export import full_rank, transformer_folder
from trainer_core.export.adapter_file import AdapterFile, ModuleDelta, read_adapter
from trainer_core.export.merge import MergeReport, merge_folder, merge_into
from trainer_core.hidream.loading import load_transformer
from trainer_core.precision.quanto import quantize_frozen


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return load_transformer(tiny_folder, torch.float32)


@pytest.fixture(scope="module")
def example(base: HiDreamImageTransformer2DModel) -> Example:
    return EXAMPLES["lokr-low-rank"](base)


@pytest.fixture(scope="module")
def file(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example.write(tmp_path_factory.mktemp("merge") / "adapter")


def merge(
    base: Path, file: Path, output: Path, dtype: torch.dtype, multiplier: float = 1.0
) -> MergeReport:
    return merge_folder(
        base, file, output, dtype=dtype, multiplier=multiplier, on_module=lambda done, total: None
    )


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(full_rank.read_transformer(folder / "transformer"))


def test_bf16_weights_are_the_cast_of_the_exact_sum_and_the_loss_is_reported(
    tiny_folder: Path, example: Example, file: Path, tmp_path: Path
) -> None:
    report = merge(tiny_folder, file, tmp_path / "out", torch.bfloat16)

    before, after = weights_of(tiny_folder), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    lost = changed = 0.0
    for name, weight in before.items():
        delta = example.deltas.get(name.removesuffix(".weight"))
        exact = weight.double() if delta is None else weight.double() + delta
        assert after[name].dtype == torch.bfloat16
        # Half a unit in the last of 8 bits, and what fp32 sums leave where W and Δ cancel.
        assert ((after[name].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-7).all()
        if delta is not None:
            lost += float((after[name].double() - exact).square().sum())
            changed += float(delta.square().sum())
    assert report.share == pytest.approx((lost / changed) ** 0.5, rel=1e-4)
    reported = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert reported["lost_share"] == report.share
    assert reported["modules"] == len(report.changed) == len(PATHS)
    assert [share for _, share in report.worst(9)] == sorted(
        (share for _, share in report.worst(9)), reverse=True
    )


def test_the_smaller_the_change_the_more_of_it_is_lost(
    tiny_folder: Path, file: Path, tmp_path: Path
) -> None:
    shares = [
        merge(tiny_folder, file, tmp_path / str(strength), torch.bfloat16, strength).share
        for strength in (1.0, 1e-2, 1e-5)
    ]

    assert shares[0] < 0.02 < shares[1] < shares[2]
    assert shares[2] > 0.9


def test_fp32_keeps_it_and_strength_0_is_the_base(
    tiny_folder: Path, file: Path, tmp_path: Path
) -> None:
    assert merge(tiny_folder, file, tmp_path / "full", torch.float32).share < 1e-6
    assert merge(tiny_folder, file, tmp_path / "none", torch.float32, 0.0).share == 0
    before, after = weights_of(tiny_folder), weights_of(tmp_path / "none")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_of_many_files_is_read_and_written(
    tiny_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merge(tiny_folder, file, tmp_path / "whole", torch.float32)
    monkeypatch.setattr(transformer_folder, "FILE_BYTES", 1 << 20)
    merge(tiny_folder, file, tmp_path / "parts", torch.float32)
    again = merge(tmp_path / "parts", file, tmp_path / "again", torch.float32, -1.0)

    assert len(list((tmp_path / "parts" / "transformer").glob("*.safetensors"))) > 2
    loaded = load_transformer(tmp_path / "parts", torch.float32).state_dict()
    expected = weights_of(tmp_path / "whole")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert again.changed.keys() == whole.changed.keys()
    before, after = weights_of(tiny_folder), weights_of(tmp_path / "again")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_progress_is_told(tiny_folder: Path, file: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []

    merge_folder(
        tiny_folder, file, tmp_path / "out", dtype=torch.float32, multiplier=1.0,
        on_module=lambda done, total: reported.append((done, total)),
    )  # fmt: skip

    assert reported == [(done, len(PATHS)) for done in range(1, len(PATHS) + 1)]


def test_a_quantised_model_is_refused_and_left_as_it_was(
    base: HiDreamImageTransformer2DModel, tiny_folder: Path, file: Path
) -> None:
    adapter = read_adapter(file, hidream_linears(base.config))
    model = load_transformer(tiny_folder, torch.float32)
    quantize_frozen(model, "int8-quanto")
    linear = model.get_submodule(PATHS[0])
    before = linear.weight.dequantize().clone()

    with pytest.raises(BaseModelError, match="merge first, then quantise"):
        merge_into(model, adapter, 1.0)

    assert torch.equal(linear.weight.dequantize(), before)


def copy_of_base(tiny: Path, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base model's transformer whose weights a test may replace."""
    (folder / "transformer").mkdir(parents=True)
    config = (tiny / "transformer" / "config.json").read_text()
    (folder / "transformer" / "config.json").write_text(config)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    return weights, load_file(tiny / "transformer" / weights.name)


def test_a_quantised_folder_is_refused(tiny_folder: Path, file: Path, tmp_path: Path) -> None:
    weights, tensors = copy_of_base(tiny_folder, tmp_path / "ints")
    name = f"{PATHS[0]}.weight"
    for dtype in (torch.int8, torch.float8_e4m3fn):
        save_file(tensors | {name: tensors[name].to(dtype)}, weights)
        with pytest.raises(BaseModelError, match="is quantised"):
            merge(tmp_path / "ints", file, tmp_path / "out", torch.float32)
    save_file(tensors, weights)
    config = weights.with_name("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {}}))
    with pytest.raises(BaseModelError, match="is quantised"):
        merge(tmp_path / "ints", file, tmp_path / "out", torch.float32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ints"]


def test_a_base_without_one_of_the_weights_is_refused(
    tiny_folder: Path, file: Path, tmp_path: Path
) -> None:
    weights, tensors = copy_of_base(tiny_folder, tmp_path / "short")
    del tensors[f"{PATHS[0]}.weight"]
    save_file(tensors, weights)

    with pytest.raises(BaseModelError, match=f"lacks 1 weights, such as {PATHS[0]}"):
        merge(tmp_path / "short", file, tmp_path / "out", torch.float32)

    assert not (tmp_path / "out").exists()


def test_an_existing_file_or_folder_is_never_touched(
    tiny_folder: Path, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()

    for name in ("full", "file"):
        with pytest.raises(OutputError, match="exists and is not empty"):
            merge(tiny_folder, file, tmp_path / name, torch.float32)
    merge(tiny_folder, file, tmp_path / "empty", torch.float32)

    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "empty" / "transformer" / "config.json").is_file()


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_never_written(
    multiplier: float, tiny_folder: Path, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterFileError, match="not finite"):
        merge(tiny_folder, file, tmp_path / "out", torch.bfloat16, multiplier)

    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_fails_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError):
        merge(tiny_folder, tmp_path / "none.safetensors", tmp_path / "out", torch.float32)

    assert list(tmp_path.iterdir()) == []


def test_a_module_that_is_no_plain_linear_is_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4))
    delta = ModuleDelta(kind="lora", left=torch.ones(4, 1), right=torch.ones(1, 4), scale=1.0)

    for path, words in (("0", "is a Sequential"), ("7", "has no module 7")):
        with pytest.raises(BaseModelError, match=words):
            merge_into(model, AdapterFile(kind="lora", deltas={path: delta}), 1.0)


def test_each_module_has_its_own_share() -> None:
    """A small change beside a large one drowns alone."""
    report = MergeReport(changed={"a": 4.0, "b": 1e-8}, lost={"a": 1e-6, "b": 1e-8})

    assert dict(report.worst(2)) == {"b": 1.0, "a": pytest.approx(5e-4)}
    assert report.share == pytest.approx(5e-4, rel=0.01)
