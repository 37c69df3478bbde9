"""peft's LoraConfig in the metadata of a LoRA file, as diffusers writes it. Imports no torch."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from trainer_core.errors import AdapterFileError

METADATA_KEY: Final = "lora_adapter_metadata"
"""Metadata key of peft's LoraConfig. Source: diffusers 0.42.1, loaders/lora_base.py."""


def lora_config(file: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The LoraConfig; empty where there is none.

    Args:
        file: its name, for messages.
        metadata: of the file.

    Raises AdapterFileError where it cannot be read, or describes what is not built.
    """
    try:
        # Integers are read as floats, so a huge one becomes infinite and is refused.
        packed = json.loads(metadata.get(METADATA_KEY, "{}"), parse_int=float)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file}: its {METADATA_KEY} is not JSON") from error
    if not isinstance(packed, dict):
        raise AdapterFileError(f"{file}: its {METADATA_KEY} is not an object")
    config = {name.removeprefix("transformer."): value for name, value in packed.items()}
    for name in ("alpha_pattern", "use_dora"):
        if config.get(name):
            raise AdapterFileError(f"{file}: {name} in its {METADATA_KEY} is not supported")
    alpha = config.get("lora_alpha", 1.0)
    if not isinstance(alpha, float):
        raise AdapterFileError(f"{file}: lora_alpha in its {METADATA_KEY} is not a number")
    if not math.isfinite(alpha):
        raise AdapterFileError(f"{file}: lora_alpha in its {METADATA_KEY} is not finite")
    return config
