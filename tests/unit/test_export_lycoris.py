"""The exported file in LyCORIS' hands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from safetensors import safe_open
from safetensors.torch import load_file

from tests.support.jobs import demo_plan
from trainer_core.adapters.lokr import LokrNetwork, attach_lokr
from trainer_core.base_models.describe import read_base_model
from trainer_core.base_models.layout import transformer_config
from trainer_core.config.plan import LokrAdapter, Plan
from trainer_core.export import transformer_folder
from trainer_core.export.lycoris_layout import lycoris_config
from trainer_core.export.origin import Origin
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.safetensors_file import FileType
from trainer_core.export.transformer_folder import write_full_rank
from trainer_core.export.write_adapter import write_adapter
from trainer_core.hidream.loading import load_text_encoders, load_transformer
from trainer_core.hidream.text import encode_texts
from trainer_core.painting.sampling import pipeline_for_sampling


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return demo_plan(read_base_model(tiny_folder), edge_px=128)


@pytest.fixture(scope="module")
def adapter(plan: Plan) -> LokrAdapter:
    assert isinstance(plan.identity.adapter, LokrAdapter)
    return plan.identity.adapter


def adapted(tiny: Path, adapter: LokrAdapter) -> tuple[HiDreamImageTransformer2DModel, LokrNetwork]:
    """Our adapter on a fresh transformer, all of it random and not zero."""
    transformer = load_transformer(tiny, torch.float32)
    network = attach_lokr(transformer, adapter, seed=11)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return transformer.eval(), network


@pytest.fixture(scope="module")
def exported(
    tiny_folder: Path, adapter: LokrAdapter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    _, network = adapted(tiny_folder, adapter)
    origin = Origin(base_model="hidream-tiny", step=7, weights="live")
    write_adapter(folder, adapter, ParametersInMemory(network.parameters()), origin)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def text(tiny_folder: Path) -> dict[str, torch.Tensor]:
    embeddings = encode_texts(load_text_encoders(tiny_folder, torch.float32), ["a cat"])
    return {
        "prompt_embeds_t5": embeddings.t5,
        "prompt_embeds_llama3": embeddings.llama.transpose(0, 1),
        "pooled_prompt_embeds": embeddings.pooled,
    }


def render(
    transformer: HiDreamImageTransformer2DModel, tiny: Path, text: dict[str, torch.Tensor]
) -> Any:
    """A float picture of 128 px after two steps with the stock pipeline."""
    stock = HiDreamImagePipeline.from_pretrained(
        tiny, transformer=None, text_encoder=None, text_encoder_2=None, text_encoder_3=None,
        text_encoder_4=None,
    )  # fmt: skip
    pipeline = pipeline_for_sampling(transformer.eval(), stock.vae, stock.scheduler)
    pipeline.default_sample_size = 16
    return pipeline(
        height=128, width=128, num_inference_steps=2, guidance_scale=1.0, output_type="np",
        generator=torch.Generator().manual_seed(0), **text,
    ).images[0]  # fmt: skip


def loaded_by_lycoris(
    tiny: Path, file: Path, multiplier: float
) -> tuple[HiDreamImageTransformer2DModel, LycorisNetwork]:
    transformer = load_transformer(tiny, torch.float32)
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(multiplier, str(file), transformer)
    network.apply_to()
    return transformer, network.eval()


def test_lycoris_paints_what_we_paint(
    tiny_folder: Path, adapter: LokrAdapter, exported: Path, text: dict[str, torch.Tensor]
) -> None:
    ours, network = adapted(tiny_folder, adapter)
    theirs, loaded = loaded_by_lycoris(tiny_folder, exported, 1.0)
    base = render(load_transformer(tiny_folder, torch.float32), tiny_folder, text)

    picture = render(theirs, tiny_folder, text)

    assert len(loaded.loras) == len(network.linears) == len(adapter.modules)
    assert np.abs(picture - base).mean() >= 1e-3
    assert np.abs(picture - render(ours, tiny_folder, text)).max() < 1e-4


def test_multiplier_zero_is_exactly_the_base(
    tiny_folder: Path, exported: Path, text: dict[str, torch.Tensor]
) -> None:
    base = render(load_transformer(tiny_folder, torch.float32), tiny_folder, text)
    off, _ = loaded_by_lycoris(tiny_folder, exported, 0.0)

    assert np.abs(render(off, tiny_folder, text) - base).max() == 0


def test_merging_works_as_the_card_says(
    tiny_folder: Path, adapter: LokrAdapter, exported: Path, text: dict[str, torch.Tensor]
) -> None:
    ours, _ = adapted(tiny_folder, adapter)
    merged = load_transformer(tiny_folder, torch.float32)
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(exported), merged)
    network.merge_to()

    difference = np.abs(render(merged, tiny_folder, text) - render(ours, tiny_folder, text))
    assert difference.max() < 1e-4


def test_keys_and_metadata(exported: Path, adapter: LokrAdapter) -> None:
    tensors = load_file(exported)
    key = "lycoris_" + adapter.modules[0].path.replace(".", "_")

    assert len(tensors) == 3 * len(adapter.modules)
    assert {f"{key}.lokr_w1", f"{key}.lokr_w2", f"{key}.alpha"} <= tensors.keys()
    with safe_open(exported, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["lycoris_config"])["algo"] == "lokr"
    assert (exported.parent / "lycoris_config.json").is_file()


def made_by_lycoris(tiny: Path, config: dict[str, Any]) -> set[str]:
    """Names of the modules that LyCORIS adapts by a config; its class is left as it was."""
    preset = config.pop("apply_preset")
    settings = (
        "TARGET_REPLACE_MODULE TARGET_REPLACE_NAME MODULE_ALGO_MAP NAME_ALGO_MAP USE_FNMATCH "
        "TARGET_EXCLUDE_NAME ENABLE_CONV"
    )
    before = {name: getattr(LycorisNetwork, name) for name in settings.split()}
    try:
        LycorisNetwork.apply_preset(preset)
        network = create_lycoris(load_transformer(tiny, torch.float32), **config)
    finally:
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)
    return {lora.lora_name for lora in network.loras}


def test_the_written_config_makes_the_same_modules(
    tiny_folder: Path, adapter: LokrAdapter, exported: Path
) -> None:
    config = json.loads((exported.parent / "lycoris_config.json").read_text())

    names = {f"lycoris_{module.path.replace('.', '_')}" for module in adapter.modules}
    assert made_by_lycoris(tiny_folder, config) == names


def test_the_written_config_does_not_take_namesakes_along(
    tiny_folder: Path, adapter: LokrAdapter
) -> None:
    """``…to_q`` is the beginning of ``…to_q_t``, which a regular expression would take too."""
    chosen = tuple(m for m in adapter.modules if m.path.endswith("0.block.attn1.to_q"))
    _, network = adapted(tiny_folder, adapter)

    config = lycoris_config(adapter.model_copy(update={"modules": chosen}), network.parameters())

    assert len(made_by_lycoris(tiny_folder, dict(config))) == len(chosen) == 2


@pytest.mark.parametrize(
    ("dtype", "file_bytes", "files"),
    [("BF16", 1 << 30, 1), ("BF16", 1 << 19, 4), ("F32", 1 << 20, 4)],
)
def test_a_full_transformer_loads_in_diffusers(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dtype: FileType,
    file_bytes: int,
    files: int,
) -> None:
    monkeypatch.setattr(transformer_folder, "FILE_BYTES", file_bytes)
    transformer = load_transformer(tiny_folder, torch.float32)
    weights = dict(transformer.named_parameters())
    folder, trained = tmp_path / "transformer", ParametersInMemory(weights)
    origin = Origin(base_model="hidream-tiny", step=7, weights="live")

    write_full_rank(folder, transformer_config(tiny_folder), trained, origin, dtype)

    written = sorted(folder.glob("*.safetensors"))
    assert len(written) >= files
    with safe_open(written[-1], "pt") as opened:
        metadata = {"format": "pt", "base_model": "hidream-tiny", "step": "7", "weights": "live"}
        assert opened.metadata() == metadata
    torch_dtype = torch.bfloat16 if dtype == "BF16" else torch.float32
    again = HiDreamImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch_dtype)
    assert dict(again.config)["num_layers"] == 2
    found = dict(again.named_parameters())
    assert all(torch.equal(p.to(torch_dtype), found[n]) for n, p in weights.items())
