"""Check the folder of a Tiny AutoEncoder, which decodes previews. Imports no torch."""

from pathlib import Path
from typing import Final

from trainer_core.base_models.layout import read_config
from trainer_core.errors import BaseModelError

_CLASS: Final = "AutoencoderTiny"


def check_tiny_folder(folder: Path) -> None:
    """Raise BaseModelError where it has no AutoencoderTiny of diffusers in safetensors."""
    if read_config(folder / "config.json").get("_class_name") != _CLASS:
        raise BaseModelError(f"{folder} is no {_CLASS} of diffusers")
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(f"{folder} has no weights in safetensors, and no others are read")
