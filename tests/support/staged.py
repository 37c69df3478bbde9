"""The commands of docs/how-to/train-in-stages.md, made small enough for the tiny model."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

from tests.support.local_runs import make_project
from trainer_core.documents import load_document

_PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "train-in-stages.md"
_SIZES: Final = (
    *("resolution", "minimum_image_size", "maximum_image_size", "target_downsample_size"),
)


def commands(*first: str) -> list[list[str]]:
    """The words after ``reverie`` of each command on the page that begins with ``first``."""
    blocks = re.findall(r"```\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line.removeprefix("$ "))[1:] for line in lines]
    return [words for words in found if words[: len(first)] == list(first)]


def small(words: list[str], steps: int, *, first_px: int, second_px: int) -> list[str]:
    """The command with so many steps, at ``first_px`` for 512 and ``second_px`` for 1024."""
    sizes = {"512": str(first_px), "1024": str(second_px)}
    return [
        f"max_train_steps={steps}"
        if word.startswith("max_train_steps=")
        else re.sub(r"\b(512|1024)\b", lambda found: sizes[found[1]], word)
        for word in words
    ]


def make_stages(folder: Path) -> Path:
    """A project whose image backends have no sizes of their own, as the page says; its config."""
    config_dir = make_project(folder, lr_warmup_steps=0)
    file = config_dir / "multidatabackend.json"
    backends: Any = load_document(file)
    plain = [{k: v for k, v in each.items() if k not in _SIZES} for each in backends]
    file.write_text(json.dumps(plain))
    return config_dir
