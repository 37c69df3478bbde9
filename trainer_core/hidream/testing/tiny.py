"""Miniature HiDream-I1 models with random weights, for tests, the tutorial and `reverie up`.

They have the classes and the folder layout of the real model, so the same code trains both. Their
images are noise.

Weights are uniform numbers from one seeded generator, drawn in the order of the modules' names.
(Bits of normal numbers would depend on the CPU's vector width.) So the same library versions give
the same bytes, and the same digest, on every machine.
"""

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from trainer_core.base_models.describe import DESCRIPTION_NAME, describe_base, holds_base_model
from trainer_core.base_models.known import KNOWN_MODELS, TINY_NAME, WIDE_NAME
from trainer_core.hidream.testing.tokenizers import clip_tokenizer, llama_tokenizer, t5_tokenizer

_SEED: Final = 20250407

_LATENT_SHIFT: Final = -0.063
_LATENT_SCALE: Final = 1.776
"""Measured on twelve photographs of scikit-image: latents have mean 0 and variance 1 after them."""
_POSTERIOR_LOGVAR: Final = -6.0
"""A narrow posterior, as in a trained VAE: standard deviation 0.05 before the scale."""

_SELF_ATTENTION_GAIN: Final = 1.5
"""Queries and keys start equal and longer than usual, so a token attends mostly to itself."""
_HEAD_STD: Final = 0.05
"""Of the output layer's weights, so that the first velocities are smaller than their targets."""


def make_tiny(folder: Path) -> None:
    """Write the tiny model to ``folder``, which must not exist yet or be empty.

    The folder appears complete, with its description, or not at all. It takes about two seconds and
    8 MB. A base model that exists there is not changed. Raises BaseModelError where the folder
    holds anything else.
    """
    _make(folder, TINY_NAME)


def make_wide(folder: Path) -> None:
    """As ``make_tiny``, with fewer and wider transformer blocks; about 48 MB."""
    _make(folder, WIDE_NAME)


def _make(folder: Path, name: str) -> None:
    folder = folder.absolute()
    if holds_base_model(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build_pipeline(name).save_pretrained(temporary, safe_serialization=True)
        describe_base(temporary, name)
        temporary.chmod(0o755)
        _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    """Rename, unless another process has made the same folder in the meantime."""
    try:
        temporary.rename(folder)
    except OSError:
        if not (folder / DESCRIPTION_NAME).is_file():
            raise


def build_pipeline(name: str = TINY_NAME) -> HiDreamImagePipeline:
    """A test model in memory, fp32, in eval mode; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        parts = _parts(name)
    draw = torch.Generator().manual_seed(_SEED)
    modules = (part for part, it in parts.items() if isinstance(it, torch.nn.Module))
    for part in sorted(modules):
        _initialise(parts[part], draw)
    _shape_transformer(parts["transformer"])
    _shape_vae(parts["vae"])
    return HiDreamImagePipeline(**parts)


def _parts(name: str) -> dict[str, Any]:
    clip, t5, llama = clip_tokenizer(), t5_tokenizer(), llama_tokenizer()
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "text_encoder": _clip(clip),
        "text_encoder_2": _clip(clip),
        "text_encoder_3": _t5(t5),
        "text_encoder_4": _llama(llama),
        "tokenizer": clip,
        "tokenizer_2": clip_tokenizer(),
        "tokenizer_3": t5,
        "tokenizer_4": llama,
        "transformer": HiDreamImageTransformer2DModel(**KNOWN_MODELS[name].transformer).eval(),
        "vae": _vae(),
    }


def _clip(tokenizer: Any) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=_multiple(len(tokenizer)),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,  # the pipeline pads to 128 tokens
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


def _t5(tokenizer: Any) -> T5EncoderModel:
    config = T5Config(
        vocab_size=_multiple(len(tokenizer)),
        d_model=48,
        d_kv=16,
        num_heads=3,
        d_ff=96,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def _llama(tokenizer: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=_multiple(len(tokenizer)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=256,
        shift_factor=_LATENT_SHIFT,
        scaling_factor=_LATENT_SCALE,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def _multiple(size: int, of: int = 16) -> int:
    return (size + of - 1) // of * of


@torch.no_grad()
def _initialise(module: torch.nn.Module, draw: torch.Generator) -> None:
    """Initialise every parameter: weights with variance 1 / inputs, biases 0, norm weights 1."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim < 2:
            parameter.fill_(1.0)
        else:
            uniform = torch.rand(parameter.shape, generator=draw) * 2 - 1
            inputs = parameter[0].numel()
            parameter.copy_(uniform * math.sqrt(3 / inputs))


@torch.no_grad()
def _shape_transformer(transformer: HiDreamImageTransformer2DModel) -> None:
    """Adjust the random transformer so that a small adapter on attention alone can learn.

    The gates of attention and feed-forward start at 1, each token attends mostly to itself, and
    the output layer is small.
    """
    parameters: Mapping[str, torch.nn.Parameter] = dict(transformer.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("adaLN_modulation.1.weight"):
            parameter.mul_(0.2)
        if name.endswith("block.adaLN_modulation.1.bias"):
            # shift, scale, gate for attention, then for the feed-forward, then both for text
            parameter.view(-1, 3, transformer.inner_dim)[:, 2] = 1.0
        if "rms_norm" in name:
            parameter.fill_(_SELF_ATTENTION_GAIN)
        if ".to_k" in name and name.endswith("weight"):
            parameter.copy_(parameters[name.replace(".to_k", ".to_q")])
        if name == "final_layer.linear.weight":
            parameter.mul_(_HEAD_STD * math.sqrt(parameter.shape[1]))


@torch.no_grad()
def _shape_vae(vae: AutoencoderKL) -> None:
    """Make the posterior narrow: the second half of the encoder's channels is its log variance."""
    last = vae.encoder.conv_out
    last.weight[vae.config.latent_channels :] *= 0.1
    last.bias[vae.config.latent_channels :] = _POSTERIOR_LOGVAR
