import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HiDreamImagePipeline
from optimum.quanto import QLinear

from trainer_core.__main__ import main
from trainer_core.base_models.describe import (
    DESCRIPTION_NAME,
    read_base_model,
    read_base_models,
)
from trainer_core.base_models.known import TINY_NAME, WIDE_NAME
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import (
    load_scheduler,
    load_text_encoders,
    load_transformer,
    load_vae,
)
from trainer_core.hidream.testing.tiny import make_tiny
from trainer_core.hidream.text import encode_texts

MODEL_CLASSES = {
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
    "text_encoder_4": "LlamaForCausalLM",
    "tokenizer": "CLIPTokenizer",
    "tokenizer_2": "CLIPTokenizer",
    "tokenizer_3": "T5Tokenizer",
    "transformer": "HiDreamImageTransformer2DModel",
    "vae": "AutoencoderKL",
}


def test_it_has_the_parts_and_the_classes_of_the_real_model(tiny_folder: Path) -> None:
    index = json.loads((tiny_folder / "model_index.json").read_text())

    assert index["_class_name"] == "HiDreamImagePipeline"
    assert {name: index[name][1] for name in MODEL_CLASSES} == MODEL_CLASSES
    assert "tokenizer_4" in index
    HiDreamImagePipeline.from_pretrained(tiny_folder, local_files_only=True)


def test_making_it_twice_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()

    make_tiny(tmp_path / "again")

    first, again = (
        json.loads((folder / DESCRIPTION_NAME).read_bytes())
        for folder in (tiny_folder, tmp_path / "again")
    )
    assert first.pop("stamps").keys() == again.pop("stamps").keys()  # times, which do differ
    assert again == first
    assert torch.equal(torch.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_it_is_on_the_operators_list(tiny_models_dir: Path) -> None:
    base = read_base_models(tiny_models_dir)[TINY_NAME]

    assert base.transformer_config["llama_layers"] == [0, 1, 2, 2]


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    assert main(["make-tiny", str(folder), "--shape", "wide"]) == 0
    return folder


def test_the_wide_one_differs_in_its_transformer_only(tiny_folder: Path, wide_folder: Path) -> None:
    tiny, wide = read_base_model(tiny_folder), read_base_model(wide_folder)

    assert (tiny.name, wide.name) == (TINY_NAME, WIDE_NAME)
    assert tiny.digest != wide.digest
    model = load_transformer(wide_folder, torch.float32)
    assert (len(model.double_stream_blocks), len(model.single_stream_blocks)) == (1, 2)
    assert model.config.axes_dims_rope == [32, 16, 16]
    assert model.config.llama_layers == [0, 2, 2]
    experts = model.single_stream_blocks[0].block.ff_i
    assert experts.experts[0].w1.weight.shape == (768, 256)
    assert experts.shared_experts.w1.weight.shape == (512, 256)


def test_every_side_of_the_wide_ones_products_is_a_multiple_of_16(wide_folder: Path) -> None:
    linears = hidream_linears(read_base_model(wide_folder).transformer_config)

    sides = {side for linear in linears for side in (linear.in_features, linear.out_features)}
    assert not [side for side in sides if side % 16]


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")

    with pytest.raises(BaseModelError, match="not empty"):
        make_tiny(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_parts_load_in_the_requested_type_and_the_vae_is_frozen(
    tiny_folder: Path,
) -> None:
    transformer = load_transformer(tiny_folder, torch.bfloat16)
    vae = load_vae(tiny_folder, torch.float32)
    encoders = load_text_encoders(tiny_folder, torch.float32, text_encoder_4="int8-quanto")

    assert {p.dtype for p in transformer.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in vae.parameters())
    assert not vae.training
    assert load_scheduler(tiny_folder).config.shift == 3.0
    assert not any(m.module.training for m in (encoders.clip_l, encoders.t5, encoders.llama))
    assert type(encoders.llama.module.model.layers[0].self_attn.q_proj).__name__ == "QLinear"
    assert type(encoders.t5.module.encoder.block[0].layer[0].SelfAttention.q).__name__ == "Linear"


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_each_encoder_may_be_held_in_8_bits(tiny_folder: Path, number: int) -> None:
    precision: Any = {f"text_encoder_{number}": "int8-quanto"}
    encoders = load_text_encoders(tiny_folder, torch.float32, **precision)

    parts = (encoders.clip_l, encoders.clip_g, encoders.t5, encoders.llama)
    quantised = [any(isinstance(m, QLinear) for m in part.module.modules()) for part in parts]
    assert quantised == [n == number for n in (1, 2, 3, 4)]
    plain = encode_texts(load_text_encoders(tiny_folder, torch.float32), ["a cat"])
    found = encode_texts(encoders, ["a cat"])
    differing = {n for n, t in found.tensors().items() if not torch.equal(t, plain.tensors()[n])}
    assert differing == {{1: "pooled", 2: "pooled", 3: "t5", 4: "llama"}[number]}
    for name in differing:
        close = found.tensors()[name] - plain.tensors()[name]
        assert close.norm() < 0.05 * plain.tensors()[name].norm()


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler", "tokenizer_3"])
def test_a_folder_without_a_part_is_named(tiny_folder: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns(part))
    load = {
        "transformer": lambda: load_transformer(folder, torch.float32),
        "vae": lambda: load_vae(folder, torch.float32),
        "scheduler": lambda: load_scheduler(folder),
        "tokenizer_3": lambda: load_text_encoders(folder, torch.float32),
    }[part]

    with pytest.raises(BaseModelError, match=f"lacks the folder '{part}'"):
        load()


def test_a_truncated_weight_file_is_a_base_model_error(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "transformer", tmp_path / "transformer")
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(BaseModelError, match="transformer"):
        load_transformer(tmp_path, torch.float32)


def test_a_model_built_for_inference_output_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "transformer", tmp_path / "transformer")
    config = tmp_path / "transformer" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "force_inference_output": True})
    )

    with pytest.raises(BaseModelError, match="force_inference_output"):
        load_transformer(tmp_path, torch.float32)
