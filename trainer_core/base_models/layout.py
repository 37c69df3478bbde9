"""The folder of a base model in diffusers' layout: its parts and their required files."""

import json
from pathlib import Path
from typing import Any, Final

from trainer_core.errors import BaseModelError

WEIGHTS: Final = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts with weights, except the fourth text encoder."""
OTHERS: Final = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")
FOURTH: Final = ("text_encoder_4", "tokenizer_4")
"""The fourth text encoder. HiDream-I1 is published without it."""


def read_config(file: Path) -> dict[str, Any]:
    """The object in a ``config.json``; raises BaseModelError, which names the file."""
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{file} has to contain a JSON object")
    return config


def transformer_config(folder: Path) -> dict[str, Any]:
    """``transformer/config.json`` of a base model; raises BaseModelError."""
    try:
        return read_config(folder / "transformer" / "config.json")
    except BaseModelError as error:
        raise BaseModelError(
            f"{folder} is not a base model in diffusers' layout: {error.message}"
        ) from error


def has_fourth(folder: Path) -> bool:
    """Whether the folder contains the fourth text encoder."""
    return all((folder / part).is_dir() for part in FOURTH)


def main_parts(folder: Path) -> dict[str, Path]:
    """Name of a part → its folder, without the fourth encoder.

    Raises BaseModelError if a part is missing or has no safetensors weights.
    """
    missing = [part for part in (*WEIGHTS, *OTHERS) if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(
            f"{folder} is not a complete base model in diffusers' layout; it lacks "
            f"{', '.join(missing)}"
        )
    for part in WEIGHTS:
        _check_weights(folder / part)
    return {part: folder / part for part in (*WEIGHTS, *OTHERS)}


def fourth_parts(folder: Path) -> dict[str, Path]:
    """Folders of the fourth encoder and its tokenizer; raises BaseModelError.

    Args:
        folder: contains the sub-folders ``text_encoder_4`` and ``tokenizer_4``, or the files of
            both at its top level, as language models are published.
    """
    model = folder / "text_encoder_4" if (folder / "text_encoder_4").is_dir() else folder
    tokenizer = folder / "tokenizer_4" if (folder / "tokenizer_4").is_dir() else model
    if not (model / "config.json").is_file():
        raise BaseModelError(f"{folder} contains no text encoder: there is no {model}/config.json")
    if not (tokenizer / "tokenizer_config.json").is_file():
        raise BaseModelError(
            f"{folder} contains no tokenizer: there is no {tokenizer}/tokenizer_config.json"
        )
    _check_weights(model)
    return {"text_encoder_4": model, "tokenizer_4": tokenizer}


def _check_weights(part: Path) -> None:
    names = {path.name for path in part.glob("*.safetensors")}
    if not names:
        raise BaseModelError(
            f"{part} has no safetensors weights; other formats are not loaded, because they "
            "can run code"
        )
    for index in part.glob("*.safetensors.index.json"):
        try:
            wanted = set(read_config(index)["weight_map"].values())
        except (KeyError, AttributeError) as error:
            raise BaseModelError(f"{index} has no weight_map") from error
        if lacking := sorted(wanted - names):
            raise BaseModelError(f"{part} lacks {', '.join(lacking)}: download the model again")
