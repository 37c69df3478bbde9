"""The format that diffusers' ``load_lora_weights`` reads, without tensors. Imports no torch.

At strength 1 every reader gets the adapter as trained: alpha / rank is multiplied into B, and the
metadata have alpha = rank. diffusers reads alpha only from the metadata, and ComfyUI ignores them.
So any other alpha would be right in one reader and silently wrong in the other.
"""

import json
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import LoraAdapter
from trainer_core.export.file_tensors import FileTensor
from trainer_core.export.origin import Origin
from trainer_core.weights.lora_config import METADATA_KEY

PREFIX: Final = "transformer."


def lora_layout(adapter: LoraAdapter) -> list[FileTensor]:
    """``transformer.<path>.lora_A.weight`` [rank, in] and ``.lora_B.weight`` [out, rank].

    The parameters are ``<path>.lora_A`` and ``<path>.lora_B``.
    """
    scale = adapter.alpha / adapter.rank
    found: list[FileTensor] = []
    for path in adapter.modules:
        down, up = f"{path}.lora_A", f"{path}.lora_B"
        found.append(FileTensor(name=f"{PREFIX}{down}.weight", parameter=down))
        found.append(FileTensor(name=f"{PREFIX}{up}.weight", parameter=up, scale=scale))
    return found


def lora_metadata(adapter: LoraAdapter, origin: Origin) -> dict[str, str]:
    """Metadata of the file, with the arguments that diffusers passes to peft's LoraConfig."""
    config: dict[str, JsonValue] = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,  # the scale is in B
        "lora_dropout": 0.0,  # of training only
        "bias": "none",
        "target_modules": list(adapter.modules),
    }
    prefixed = {PREFIX + name: value for name, value in config.items()}
    return {
        **origin.as_metadata(modules=len(adapter.modules)),
        METADATA_KEY: json.dumps(prefixed, indent=2, sort_keys=True),
        "trained_alpha": str(adapter.alpha),
    }
