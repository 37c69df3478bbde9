"""Parameters of the parts are counted from their configurations as torch counts them."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, HiDreamImagePipeline, HiDreamImageTransformer2DModel
from torch import nn

from tests.unit.config_examples import TRUE_CONFIG
from trainer_core.base_models.known import KNOWN_MODELS, PUBLISHED
from trainer_core.base_models.part_sizes import text_encoder_size, transformer_size, vae_parameters
from trainer_core.hidream.testing.tiny import build_pipeline


@pytest.fixture(scope="module")
def pipeline() -> HiDreamImagePipeline:
    return build_pipeline()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_known_shapes_are_those_of_the_models(pipeline: HiDreamImagePipeline) -> None:
    config = dict(pipeline.transformer.config)
    known = KNOWN_MODELS["hidream-tiny"].transformer

    assert {key: _plain(config[key]) for key in known} == dict(known)
    assert dict(PUBLISHED.transformer) == TRUE_CONFIG


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_transformers_are_counted_as_torch_counts_them(pipeline: HiDreamImagePipeline) -> None:
    with torch.device("meta"):
        published = HiDreamImageTransformer2DModel(**TRUE_CONFIG)
        vae = AutoencoderKL(
            **{
                **PUBLISHED.vae,
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "up_block_types": ("UpDecoderBlock2D",) * 4,
            }
        )

    size = transformer_size(PUBLISHED.transformer)
    linears = [module for module in published.modules() if isinstance(module, nn.Linear)]
    assert size.parameters == count(published)
    assert size.linears == len(linears)
    assert size.linear_weights == sum(linear.weight.numel() for linear in linears)
    assert size.linear_rows == sum(linear.out_features for linear in linears)
    assert transformer_size(pipeline.transformer.config).parameters == count(pipeline.transformer)
    assert vae_parameters(PUBLISHED.vae or {}) == count(vae)
    assert vae_parameters(pipeline.vae.config) == count(pipeline.vae)


def test_encoders_are_counted_as_torch_counts_them(pipeline: HiDreamImagePipeline) -> None:
    for number in (1, 2, 3, 4):
        encoder = getattr(pipeline, f"text_encoder{'' if number == 1 else f'_{number}'}")
        size = text_encoder_size(number, encoder.config.to_dict())
        linears = [module for module in encoder.modules() if isinstance(module, nn.Linear)]

        assert size.parameters == count(encoder)
        assert (size.linears, size.linear_weights, size.linear_rows) == (
            len(linears),
            sum(linear.weight.numel() for linear in linears),
            sum(linear.out_features for linear in linears),
        )


def test_the_published_encoders_have_their_known_sizes() -> None:
    sizes = [
        text_encoder_size(number, config or {}).parameters
        for number, config in enumerate(PUBLISHED.text_encoders, start=1)
    ]

    assert sizes[2:] == [4_762_310_656, 8_030_261_248]  # T5 v1.1 XXL's encoder, Llama 3.1 8B
