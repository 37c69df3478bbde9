"""The painting model's parts and their sizes, before and after training."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from torch import nn

from trainer_core.base_models.describe import BaseModel, describe_base
from trainer_core.painter.encoders import WIDTH, build_encoders

NAME: Final = "hidream-painter"
SHIFT: Final = 3.0
"""Of the sampler's steps."""
LATENT_CHANNELS: Final = 16
_SEED: Final = 20261130
_SHARD: Final = "12MB"
"""Largest file of weights."""

TRANSFORMER: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "patch_size": 2,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_layers": 1,
        "num_single_layers": 7,
        "attention_head_dim": 32,
        "num_attention_heads": 6,
        "caption_channels": [WIDTH, WIDTH],
        "text_emb_dim": 2 * WIDTH,
        "num_routed_experts": 2,
        "num_activated_experts": 1,
        "axes_dims_rope": [8, 12, 12],
        "max_resolution": [24, 24],
        "llama_layers": [0, 1, 0, 1, 0, 1, 0, 1],
    }
)
_LICENCE: Final = """\
The weights in this folder were trained from scratch by the program that is published with them,
on pictures and captions that the same program drew. No picture, text or weight of anybody else
was used. They are under the Apache License 2.0, as the program is.

Made anew by: python -m trainer_core make-painter DIR
"""


def build_vae(channels: tuple[int, ...] = (32, 48, 64, 64)) -> AutoencoderKL:
    """An untrained VAE with cells of 8 px, as the real one's."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=256,
        shift_factor=0.0,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build_transformer(config: Mapping[str, Any] = TRANSFORMER) -> HiDreamImageTransformer2DModel:
    """An untrained transformer whose blocks start as the identity, as in DiT.

    The gates and the last layer start at zero, so the first velocities are zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        transformer = HiDreamImageTransformer2DModel(**config)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "rms_norm" in name or parameter.ndim < 2:
                parameter.fill_(1.0)
            elif "adaLN_modulation" in name or name.startswith("final_layer"):
                parameter.zero_()
            elif name.endswith("gate.weight"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))
    return transformer


def build_encoder_parts() -> dict[str, Any]:
    """The text encoders and tokenizers; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        return build_encoders(torch.Generator().manual_seed(_SEED))


def write_model(
    folder: Path,
    vae: AutoencoderKL,
    transformer: HiDreamImageTransformer2DModel,
    name: str = NAME,
) -> BaseModel:
    """Write the whole model in diffusers' layout, in bf16, with its description and licence.

    The folder is replaced. ``vae`` and ``transformer`` are cast.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae.cpu(),
        transformer=transformer.cpu(),
        **build_encoder_parts(),
    ).to(torch.bfloat16)
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=_SHARD)
    (folder / "LICENSE.txt").write_text(_LICENCE, encoding="utf-8")
    return describe_base(folder, name)
