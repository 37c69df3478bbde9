"""Write a trained LoRA; ``lora_layout`` has the format."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainer_core.config.plan import LoraAdapter
from trainer_core.export.folding import folded
from trainer_core.export.lora_layout import lora_layout, lora_metadata
from trainer_core.export.origin import ADAPTER_NAME, Origin


def write_lora_file(
    folder: Path,
    parameters: Mapping[str, torch.Tensor],
    adapter: LoraAdapter,
    origin: Origin,
) -> None:
    """Write the adapter into an existing folder. Raises KeyError if a parameter is missing."""
    save_file(
        folded(parameters, lora_layout(adapter)),
        folder / ADAPTER_NAME,
        metadata=lora_metadata(adapter, origin),
    )
