"""ComfyUI takes every key of our files and makes the trained change of them.

Our own statement of what ComfyUI does with a file, read from Comfy-Org/ComfyUI at commit a125cd84
of 2025-10-12: comfy/lora.py (aliases of weights; HiDream's came with pull request #8318),
comfy/weight_adapter/lokr.py and lora.py (suffixes and scales), comfy/ldm/hidream/model.py (names of
the weights). Facts only; none of its code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from safetensors.torch import load_file

from tests.support.adapters import EXAMPLES, Example
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.hidream.loading import load_transformer

_FEED_FORWARD: Final = r"w[123]"
_EXPERT: Final = r"(shared_experts|experts\.\d+)"
_ATTENTION: Final = r"attn1\.to_(q|k|v|out)"
LINEARS: Final = (
    r"(x_embedder\.proj|final_layer\.linear|final_layer\.adaLN_modulation\.1)",
    r"(t_embedder\.timestep_embedder|p_embedder\.pooled_embedder)\.linear_[12]",
    r"caption_projection\.\d+\.linear",
    r"(double|single)_stream_blocks\.\d+\.block\.adaLN_modulation\.1",
    rf"double_stream_blocks\.\d+\.block\.{_ATTENTION}(_t)?",
    rf"single_stream_blocks\.\d+\.block\.{_ATTENTION}",
    rf"(double|single)_stream_blocks\.\d+\.block\.ff_i\.{_EXPERT}\.{_FEED_FORWARD}",
    rf"double_stream_blocks\.\d+\.block\.ff_t\.{_FEED_FORWARD}",
)
"""Paths of the linears of ComfyUI's HiDream model, below its ``diffusion_model``."""

LOKR_PARTS: Final = ("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")
LORA_PARTS: Final = ("lora_B.weight", "lora_A.weight")

Tensors = Mapping[str, torch.Tensor]


def aliases(path: str) -> tuple[str, ...]:
    """Under which names a file may speak of the weight of a linear of a HiDream model."""
    underscored = path.replace(".", "_")
    return (
        f"lycoris_{underscored}",
        f"transformer.{path}",
        f"lora_unet_{underscored}",
        f"diffusion_model.{path}",
    )


def parts_of(tensors: Tensors, alias: str) -> dict[str, torch.Tensor]:
    known = (*LOKR_PARTS, *LORA_PARTS, "alpha")
    return {part: tensors[f"{alias}.{part}"] for part in known if f"{alias}.{part}" in tensors}


def lokr_change(parts: Tensors) -> torch.Tensor:
    """Scaled by alpha / dim where alpha is there and a matrix is decomposed: w2, or else w1."""
    whole, dim = {}, None
    for name in ("lokr_w1", "lokr_w2"):
        whole[name] = parts.get(name)
        if whole[name] is None:
            whole[name] = parts[f"{name}_a"] @ parts[f"{name}_b"]
            dim = parts[f"{name}_b"].shape[0]
    scale = float(parts["alpha"]) / dim if dim and "alpha" in parts else 1.0
    return scale * torch.kron(whole["lokr_w1"], whole["lokr_w2"])


def lora_change(parts: Tensors) -> torch.Tensor:
    """alpha / rank where alpha is there, else 1: the metadata are not looked at."""
    up, down = parts["lora_B.weight"], parts["lora_A.weight"]
    scale = float(parts["alpha"]) / down.shape[0] if "alpha" in parts else 1.0
    return scale * (up @ down)


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return load_transformer(tiny_folder, torch.float32)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_key_is_taken_and_the_change_is_the_trained_one(
    name: str, base: HiDreamImageTransformer2DModel, tmp_path: Path
) -> None:
    example: Example = EXAMPLES[name](base)
    tensors = {k: v.double() for k, v in load_file(example.write(tmp_path / name)).items()}
    paths = [linear.path for linear in hidream_linears(base.config)]
    used: set[str] = set()
    changes = {}
    for path in paths:
        for alias in aliases(path):
            parts = parts_of(tensors, alias)
            if parts:
                change = lokr_change if "alpha" in parts else lora_change
                changes[path] = change(parts)
                used |= {f"{alias}.{part}" for part in parts}

    assert used == tensors.keys()  # ComfyUI warns of every other key, and continues
    assert changes.keys() == example.deltas.keys()
    for path, change in changes.items():
        wanted = example.deltas[path]
        assert (change - wanted).norm() <= 1e-6 * wanted.norm()


def test_every_linear_that_can_be_adapted_has_its_name_in_comfyui() -> None:
    real = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "num_layers": 16,
        "num_single_layers": 32, "num_attention_heads": 20, "attention_head_dim": 128,
        "caption_channels": [4096, 4096], "text_emb_dim": 2048, "num_routed_experts": 4,
    }  # fmt: skip

    paths = [linear.path for linear in hidream_linears(real)]

    assert [p for p in paths if not any(re.fullmatch(pattern, p) for pattern in LINEARS)] == []
