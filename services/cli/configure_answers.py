"""The answers that `reverie configure` needs, and how each is read from text."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from services.domain.visible_text import is_visible
from trainer_core.config.simpletuner.placeholders import replaced_in
from trainer_core.paths import is_folder

Goal = Literal["subject", "style", "concept"]
Adapter = Literal["lokr", "lora"]

GOALS: Final[Mapping[Goal, str]] = MappingProxyType(
    {
        "subject": "one person, animal or thing",
        "style": "how pictures look, whatever is in them",
        "concept": "what captions describe: a pose, a place, a kind of thing",
    }
)
LEAST_CARD_GB: Final = 12
"""The smallest card that was measured."""
_MOST_CARD_GB: Final = 1024
_MOST_WORD: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What no look at the pictures can tell. Paths are absolute."""

    pictures: Path
    goal: Goal
    card_gb: int
    """Memory of the card, as its name says."""
    trigger_word: str | None
    """Words of a prompt that call up what was learned."""
    output: Path
    """Folder that the files are written to."""
    adapter: Adapter = "lokr"


def read_folder(text: str) -> Path:
    """A folder that is there; raises ValueError, as all of these do."""
    folder = read_path(text)
    if not is_folder(folder):
        raise ValueError(f"there is no folder {text}")
    return folder


def read_output(text: str, pictures: Path) -> Path:
    """A folder that files can be written to, outside of that of the pictures."""
    folder = read_path(text)
    if folder.is_relative_to(pictures):
        raise ValueError("it is among the pictures; name a folder beside them")
    if not folder.name:
        raise ValueError("it needs a name")
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not is_folder(there):
        raise ValueError(f"{there} is no folder; give another name")
    return folder


def read_path(text: str) -> Path:
    """A path, in which ``~`` is the home folder, as an absolute one.

    Links in it are not followed: the files name what the person named.
    """
    if not text:
        raise ValueError("give the path of a folder")
    if not is_visible(text):
        raise ValueError("its name has characters that cannot be seen; rename it")
    try:
        path = os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - resolve() follows links
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    _check_is_kept(path)
    return Path(path)


def read_goal(text: str) -> Goal:
    """One of the goals, or the start of its name."""
    for goal in GOALS:
        if text and goal.startswith(text.lower()):
            return goal
    raise ValueError(f"answer {', '.join(GOALS)}")


def read_card(text: str) -> int:
    """The memory of a card in GB."""
    digits = text.lower().removesuffix("gb").strip()
    if not (digits.isascii() and digits.isdecimal() and int(digits[:5]) <= _MOST_CARD_GB):
        raise ValueError("answer a whole number of GB, such as 24")
    if int(digits) < LEAST_CARD_GB:
        raise ValueError(f"HiDream-I1 needs a card of {LEAST_CARD_GB} GB or more, even in 8 bits")
    return int(digits)


def read_word(text: str) -> str | None:
    """The trigger word, which may be several words; None where there is none."""
    if len(text) > _MOST_WORD or not is_visible(text):
        raise ValueError(f"it has at most {_MOST_WORD} characters, and none that cannot be seen")
    _check_is_kept(text)
    return " ".join(text.split()) or None


def _check_is_kept(text: str) -> None:
    """Raise ValueError for a text that would be another one when the files are read."""
    replaced = replaced_in(text)
    if replaced is not None:
        raise ValueError(f"it must not contain {replaced}: in the files, a value takes its place")
