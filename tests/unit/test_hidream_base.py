"""The base model is loaded straight into the form in which a run multiplies it, and kept in it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from optimum.quanto import QLinear, qint8
from torch import nn

from tests.support.jobs import demo_plan
from tests.support.waiting import wait_until
from tests.unit.test_base_weights import inputs
from tests.unit.test_hidream_network import batch_of
from trainer_core.adapters.lokr import LokrLinear
from trainer_core.base_models.describe import read_base_model
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.errors import BaseModelError
from trainer_core.hidream.base import LoadedBase, load_base
from trainer_core.hidream.fused.build import fused_blocks
from trainer_core.hidream.loading import empty_transformer, fill_from_folder, load_transformer
from trainer_core.hidream.network import prepare
from trainer_core.hidream.stacks import linear_stacks
from trainer_core.precision.base_weights import allocate, joined, linears_of
from trainer_core.precision.compute import Compute
from trainer_core.precision.linear8 import dtype8_of, held_form, hold_in_8bit
from trainer_core.precision.quanto import quantize_frozen, quantizing_targets
from trainer_core.weights.kept import KeptWeights

WHOLE = {"base_model_precision": "no_change", "quantize_via": None}


def plan_of(folder: Path, **options: Any) -> Plan:
    return demo_plan(read_base_model(folder), edge_px=64, **options)


def load(
    folder: Path,
    matmul: MatmulKind,
    kept: KeptWeights | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> LoadedBase:
    compute = Compute(device=torch.device("cpu"), weights=dtype, is_autocast=False)
    return load_base(folder, plan_of(folder, **options), compute, matmul, kept)


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
    }


def output(model: HiDreamImageTransformer2DModel) -> torch.Tensor:
    with torch.no_grad():
        sample: torch.Tensor = model(**inputs(model)).sample
    return sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_that_is_not_quantised_is_cast(tiny_folder: Path, dtype: torch.dtype) -> None:
    base = load(tiny_folder, "no_change", dtype=dtype, **WHOLE)

    assert base.preparation == ("moved to cpu",)
    assert bytes_of(base.transformer) == bytes_of(load_transformer(tiny_folder, dtype))


@pytest.mark.parametrize("via", ["cpu", "accelerator"])
def test_int8_equals_quantising_the_whole_model(tiny_folder: Path, via: str) -> None:
    expected = load_transformer(tiny_folder, torch.float32)
    paths = quantize_frozen(expected, "int8-quanto")

    base = load(tiny_folder, "no_change", quantize_via=via)

    model = base.transformer
    steps = ("quantized 106 linears on cpu", "moved to cpu")
    assert base.preparation == (steps if via == "cpu" else steps[::-1])
    kinds = [(name, type(part)) for name, part in expected.named_modules()]
    assert [(name, type(part)) for name, part in model.named_modules()] == kinds
    for path in paths:
        ours, theirs = model.get_submodule(path), expected.get_submodule(path)
        assert isinstance(ours, QLinear)
        assert isinstance(theirs, QLinear)
        assert ours.frozen
        assert ours.weight_qtype is qint8
        assert torch.equal(ours.weight._data, theirs.weight._data)
        assert torch.equal(ours.weight._scale, theirs.weight._scale)
        assert vars(ours).keys() == vars(theirs).keys()
    whole = {k: v for k, v in expected.state_dict().items() if k in dict(model.named_parameters())}
    assert whole
    assert all(torch.equal(model.state_dict()[name], value) for name, value in whole.items())
    assert not any(each.requires_grad for each in model.parameters())
    assert torch.equal(output(model), output(expected))


@pytest.mark.parametrize("matmul", ["fp8", "int8", "no_change"])
def test_weights_of_some_linears_go_to_the_cpu(
    tiny_folder: Path, matmul: MatmulKind, tmp_path: Path
) -> None:
    compute = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
    plan, kept = plan_of(tiny_folder, **WHOLE), KeptWeights(folder=tmp_path, limit_bytes=1 << 30)
    attention = "double_stream_blocks.0.block.attn1"
    on_host = {f"{attention}.{name}" for name in ("to_q", "to_k", "to_v", "to_out")}

    expected = load_base(tiny_folder, plan, compute, matmul)
    found = [load_base(tiny_folder, plan, compute, matmul, kept, on_host=on_host) for _ in range(2)]

    assert found[1].source == ("published" if matmul == "no_change" else "kept")
    for base in found:
        assert bytes_of(base.transformer) == bytes_of(expected.transformer)


def test_no_whole_weight_is_held_while_others_are_read(tiny_folder: Path) -> None:
    cpu = torch.device("cpu")
    model = empty_transformer(tiny_folder, torch.bfloat16)
    linears = linears_of(model.requires_grad_(False))
    allocate(model, cpu, without={f"{path}.weight" for path, _ in linears})
    targets = quantizing_targets(model, cpu)

    fill_from_folder(targets, tiny_folder, cpu)

    assert all(linear.weight is None for _, linear in linears)
    assert len(targets) > len(linears)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("matmul", ["fp8", "int8"])
def test_8_bit_linears_equal_those_of_a_whole_model(
    tiny_folder: Path, matmul: MatmulKind, dtype: torch.dtype
) -> None:
    dtype8 = dtype8_of(matmul)
    assert dtype8 is not None
    expected = load_transformer(tiny_folder, torch.float32)
    hold_in_8bit(expected, torch.device("cpu"), dtype8)

    base = load(tiny_folder, matmul, dtype=dtype)

    found = base.transformer.state_dict()
    assert list(found) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        is_rounded = name.endswith((".rows8", ".scale"))
        wanted = value if is_rounded else value.to(dtype)
        assert found[name].dtype is wanted.dtype
        assert torch.equal(found[name].float(), wanted.float())
    forms = {held_form(path) for path, _ in linears_of(load_transformer(tiny_folder, dtype))}
    assert forms == {"multiplied", "converted", "plain"}
    assert not any(each.requires_grad for each in base.transformer.parameters())


@pytest.mark.parametrize(("matmul", "name"), [("fp8", "rows8"), ("no_change", "weight")])
def test_linears_with_one_input_lie_together_in_memory(
    tiny_folder: Path, matmul: MatmulKind, name: str
) -> None:
    model = load(tiny_folder, matmul, **WHOLE).transformer
    stacks = linear_stacks(model)
    together = {path for stack in stacks for path in stack}
    assert together == {
        path for path, _ in linears_of(load_transformer(tiny_folder, torch.float32))
        if (".ff_" in path and not path.endswith(("shared_experts.w2", "ff_t.w2")))
        or (".attn1.to_" in path and ".to_out" not in path)
    }  # fmt: skip

    for stack in stacks:
        linears = [model.get_submodule(path) for path in stack]
        for each in (name, "scale" if matmul == "fp8" else name, "bias"):
            parts = [getattr(linear, each) for linear in linears]
            if parts[0] is not None:
                assert joined(parts).data_ptr() == parts[0].data_ptr()
                assert torch.equal(joined(parts).float(), torch.cat([p.float() for p in parts]))


def test_trained_weights_have_memory_of_their_own(tiny_folder: Path) -> None:
    options = {"model_type": "full", "lora_type": None, **WHOLE}

    model = load(tiny_folder, "no_change", **options).transformer

    storages = [each.untyped_storage().data_ptr() for each in model.parameters()]
    assert len(storages) == len(set(storages))
    assert all(each.requires_grad for each in model.parameters())


@pytest.mark.parametrize("matmul", ["fp8", "no_change"])
def test_a_prepared_network_uses_the_weights_where_they_were_read(
    tiny_folder: Path, matmul: MatmulKind
) -> None:
    plan = plan_of(tiny_folder, **WHOLE)
    compute = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
    base = load_base(tiny_folder, plan, compute, matmul)
    places = {
        (path, name): getattr(base.transformer.get_submodule(path), name).data_ptr()
        for stack in linear_stacks(base.transformer)
        for path in stack
        for name in (("rows8", "scale") if matmul == "fp8" else ("weight",))
    }

    network = prepare(base.transformer, plan, compute, matmul=matmul, preparation=base.preparation)

    fused_blocks(
        network.transformer,
        recomputed=frozenset(),
        keeps_transposed=False,
    )
    assert network.preparation == base.preparation
    for (path, name), place in places.items():
        module: Any = network.transformer.get_submodule(path)
        assert (
            getattr(module.base if isinstance(module, LokrLinear) else module, name).data_ptr()
            == place
        )
    other = prepare(load_transformer(tiny_folder, torch.float32), plan, compute, matmul=matmul)
    assert set(other.preparation) == set(base.preparation)
    batch = batch_of((4, 6), 1, prior=False)
    found, expected = (
        each.velocity(batch.noisy_BCHW, 1000 * batch.sigmas_B, batch.text).velocity_BCHW
        for each in (network, other)
    )
    assert torch.equal(found, expected)


# What an earlier run kept.


@pytest.fixture
def kept(tmp_path: Path) -> KeptWeights:
    return KeptWeights(folder=tmp_path / "kept", limit_bytes=1 << 30)


def entries(kept: KeptWeights) -> list[Path]:
    return sorted(path.parent for path in kept.folder.glob("[!.]*/manifest.json"))


def load_and_keep(
    folder: Path, kept: KeptWeights, matmul: MatmulKind = "fp8", **options: Any
) -> LoadedBase:
    count = len(entries(kept))
    base = load(folder, matmul, kept, **options)
    assert base.source == "published"
    wait_until(lambda: len(entries(kept)) > count, what="the entry")
    return base


def test_the_next_run_needs_no_published_weights(
    tiny_folder: Path, tmp_path: Path, kept: KeptWeights
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    first = load_and_keep(folder, kept)
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()

    second = load(folder, "fp8", kept)

    assert second.source == "kept"
    assert bytes_of(second.transformer) == bytes_of(first.transformer)
    assert not any(each.requires_grad for each in second.transformer.parameters())
    shutil.rmtree(kept.folder)
    with pytest.raises(BaseModelError, match="cannot be read"):
        load(folder, "fp8", kept)


@pytest.mark.parametrize("part", ["header", "tensor", "cut off", "manifest", "manifest's tensors"])
def test_a_damaged_entry_is_written_anew(tiny_folder: Path, kept: KeptWeights, part: str) -> None:
    first = load_and_keep(tiny_folder, kept)
    (entry,) = entries(kept)
    weights, manifest = entry / "weights.safetensors", entry / "manifest.json"
    body, text = bytearray(weights.read_bytes()), manifest.read_text()
    match part:
        case "header":
            body[9] ^= 1
        case "tensor":
            body[-7] ^= 1
        case "cut off":
            body = body[:-1]
        case "manifest":
            manifest.write_text(text[:-10])
        case _:
            manifest.write_text(text.replace("x_embedder", "y_embedder"))
    weights.write_bytes(body)

    again = load(tiny_folder, "fp8", kept)

    assert again.source == "published"
    assert bytes_of(again.transformer) == bytes_of(first.transformer)
    wait_until(lambda: entries(kept), what="the entry")
    assert load(tiny_folder, "fp8", kept).source == "kept"


def test_another_type_kind_or_base_model_has_an_entry_of_its_own(
    tiny_folder: Path, tmp_path: Path, kept: KeptWeights
) -> None:
    from trainer_core.base_models.describe import describe_base

    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    (other / "note.txt").write_text("another digest")
    describe_base(other, "other")

    load_and_keep(tiny_folder, kept)
    load_and_keep(tiny_folder, kept, "int8")
    load_and_keep(tiny_folder, kept, dtype=torch.bfloat16)
    load_and_keep(other, kept, pretrained_model_name_or_path="other", model_flavour=None)

    assert len(entries(kept)) == 4
    assert load(tiny_folder, "int8", kept).source == "kept"


def test_nothing_but_8_bit_weights_is_kept(tiny_folder: Path, kept: KeptWeights) -> None:
    load(tiny_folder, "no_change", kept)
    load(tiny_folder, "no_change", kept, **WHOLE)

    assert not kept.folder.exists()
