"""Write a trained LoRA in the format that diffusers' ``load_lora_weights`` reads.

At strength 1 every reader gets the adapter as trained: alpha / rank is multiplied into B, and the
metadata have alpha = rank. diffusers reads alpha only from the metadata, and ComfyUI ignores them.
So any other alpha would be right in one reader and silently wrong in the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from trainer_core.config.plan import LoraAdapter
from trainer_core.export.origin import ADAPTER_NAME, Origin

PREFIX: Final = "transformer."
METADATA_KEY: Final = "lora_adapter_metadata"
"""Metadata key of peft's LoraConfig. Source: diffusers 0.42.1, loaders/lora_base.py."""


def lora_tensors(
    parameters: Mapping[str, torch.Tensor], adapter: LoraAdapter
) -> dict[str, torch.Tensor]:
    """``transformer.<path>.lora_A.weight`` [rank, in] and ``.lora_B.weight`` [out, rank], fp32.

    ``parameters``: ``<path>.lora_A`` and ``<path>.lora_B`` → tensor. Raises KeyError if one is
    missing.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in adapter.modules:
        down, up = parameters[f"{path}.lora_A"], parameters[f"{path}.lora_B"]
        scaled = up.detach().double().cpu() * (adapter.alpha / adapter.rank)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = down.detach().float().cpu().contiguous()
        tensors[f"{PREFIX}{path}.lora_B.weight"] = scaled.float().contiguous()
    return tensors


def lora_metadata(adapter: LoraAdapter) -> dict[str, JsonValue]:
    """Arguments that diffusers passes to peft's LoraConfig; each key starts ``transformer.``."""
    config: dict[str, JsonValue] = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,  # the scale is in B
        "lora_dropout": 0.0,  # of training only
        "bias": "none",
        "target_modules": list(adapter.modules),
    }
    return {PREFIX + name: value for name, value in config.items()}


def write_lora_file(
    folder: Path,
    parameters: Mapping[str, torch.Tensor],
    adapter: LoraAdapter,
    origin: Origin,
) -> None:
    """Write the adapter into an existing folder."""
    save_file(
        lora_tensors(parameters, adapter),
        folder / ADAPTER_NAME,
        metadata={
            **origin.as_metadata(modules=len(adapter.modules)),
            METADATA_KEY: json.dumps(lora_metadata(adapter), indent=2, sort_keys=True),
            "trained_alpha": str(adapter.alpha),
        },
    )
