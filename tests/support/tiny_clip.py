"""A tiny CLIP model with random weights, in the files that a published one has."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from trainer_core.hidream.testing.tokenizers import clip_tokenizer

MAX_TOKENS = 77
"""As OpenAI's models have."""
SIDE_PX = 24


def write_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """Weights, configuration, tokenizer and image processor; returns the folder."""
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = MAX_TOKENS
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(
            CLIPConfig(
                text_config={
                    **width,
                    "num_attention_heads": 4,
                    "vocab_size": len(tokenizer),
                    "max_position_embeddings": MAX_TOKENS,
                    "bos_token_id": tokenizer.bos_token_id,
                    "eos_token_id": tokenizer.eos_token_id,
                    "pad_token_id": tokenizer.pad_token_id,
                },
                vision_config={
                    **width,
                    "num_attention_heads": 4,
                    "image_size": SIDE_PX,
                    "patch_size": 8,
                },
                projection_dim=16,
            )
        )
    for parameter in model.parameters():  # so that no two texts or pictures look alike
        if parameter.dim() > 1:
            parameter.data *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}
    ).save_pretrained(folder)
    return folder
