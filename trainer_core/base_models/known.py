"""Built-in names and configurations: HiDream-I1 as published, and our test models.

With them a run can be checked on a machine without weights. The published configurations are the
``config.json`` files of HiDream-ai/HiDream-I1-Full; -Dev and -Fast have the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from trainer_core.base_models.describe import BaseModel

ModelConfig = Mapping[str, Any]


FLAVOURS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "full": "HiDream-ai/HiDream-I1-Full",
        "dev": "HiDream-ai/HiDream-I1-Dev",
        "fast": "HiDream-ai/HiDream-I1-Fast",
    }
)
"""SimpleTuner's ``model_flavour`` → name of the base model."""
FOURTH_ENCODER: Final = "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"
"""Repository of the fourth text encoder, which HiDream-I1's own repository leaves out.

An ungated copy of Llama 3.1 8B Instruct, in the sub-folders text_encoder_4 and tokenizer_4."""
TINY_NAME: Final = "hidream-tiny"
WIDE_NAME: Final = "hidream-wide"
TEST_MODELS: Final[Mapping[str, str]] = MappingProxyType({TINY_NAME: "tiny", WIDE_NAME: "wide"})
"""Name of a test model → the ``--shape`` of `python -m trainer_core make-tiny` that writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartConfigs:
    """``config.json`` of each part of a base model; None if it is not known."""

    transformer: ModelConfig
    text_encoders: tuple[ModelConfig | None, ...]
    """Four: two CLIPs, T5, Llama."""
    vae: ModelConfig | None

    def as_base(self, name: str) -> BaseModel:
        """A base model of this shape without folder and digest, good enough to make a plan."""
        return BaseModel(name=name, folder=Path(), digest="", transformer_config=self.transformer)


_TRANSFORMER: Final[ModelConfig] = MappingProxyType(
    {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 16,
        "num_single_layers": 32,
        "attention_head_dim": 128,
        "num_attention_heads": 20,
        "caption_channels": [4096, 4096],
        "text_emb_dim": 2048,
        "num_routed_experts": 4,
        "num_activated_experts": 2,
        "axes_dims_rope": [64, 32, 32],
        "max_resolution": [128, 128],
        "llama_layers": [*range(32), *([31] * 16)],
    }
)
_CLIP_L: Final[ModelConfig] = MappingProxyType(
    {
        "vocab_size": 49408,
        "max_position_embeddings": 248,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    }
)
_CLIP_G: Final[ModelConfig] = MappingProxyType(
    {
        "vocab_size": 49408,
        "max_position_embeddings": 218,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    }
)
_T5: Final[ModelConfig] = MappingProxyType(
    {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "num_heads": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32,
    }
)
_LLAMA: Final[ModelConfig] = MappingProxyType(
    {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    }
)
_VAE: Final[ModelConfig] = MappingProxyType(
    {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
)
PUBLISHED: Final = PartConfigs(
    transformer=_TRANSFORMER, text_encoders=(_CLIP_L, _CLIP_G, _T5, _LLAMA), vae=_VAE
)
"""HiDream-I1; its three flavours have the same shape."""

_TINY: Final[ModelConfig] = MappingProxyType(
    {
        **_TRANSFORMER,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "caption_channels": [48, 64],
        "text_emb_dim": 64,
        "axes_dims_rope": [16, 8, 8],
        "max_resolution": [32, 32],
        "llama_layers": [0, 1, 2, 2],  # the last one repeated, as in the real model
    }
)
_WIDE: Final[ModelConfig] = MappingProxyType(
    {  # both sides of every matrix product are multiples of 16, as 8-bit kernels need
        **_TINY,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 64,
        "axes_dims_rope": [32, 16, 16],
        "llama_layers": [0, 2, 2],
    }
)
_NO_ENCODERS: Final = (None, None, None, None)

KNOWN_MODELS: Final[Mapping[str, PartConfigs]] = MappingProxyType(
    {
        **dict.fromkeys(FLAVOURS.values(), PUBLISHED),
        TINY_NAME: PartConfigs(transformer=_TINY, text_encoders=_NO_ENCODERS, vae=None),
        WIDE_NAME: PartConfigs(transformer=_WIDE, text_encoders=_NO_ENCODERS, vae=None),
    }
)
"""Name of a base model → its parts."""
