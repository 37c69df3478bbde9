"""Lays a training result out as the folder of a model repository."""

import json
import shutil
from pathlib import Path
from typing import Final

from trainer_core.export.card import render_card

_TAKEN: Final = ("pytorch_lora_weights.safetensors", "lycoris_config.json")
_TAKEN_FOLDERS: Final = ("samples", "transformer")
"""Only what is listed here is published: never an encoder, never an optimizer's state."""


def lay_out(result: Path, repo: Path) -> None:
    """Fill ``repo`` (made here) with README.md, the weights and the samples of ``result``.

    Raises FileNotFoundError or ValueError where ``card.json`` is missing or is not JSON.
    """
    facts = json.loads((result / "card.json").read_bytes())
    repo.mkdir(parents=True)
    (repo / "README.md").write_text(render_card(facts), encoding="utf-8")
    for name in _TAKEN:
        if (result / name).is_file():
            shutil.copyfile(result / name, repo / name)
    for name in _TAKEN_FOLDERS:
        if (result / name).is_dir():
            shutil.copytree(result / name, repo / name)
