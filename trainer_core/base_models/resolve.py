"""Decide which base model a name refers to.

This only checks which folders exist; it reads no weights and uses no network. ``shape`` reads the
configurations of the model, ``obtain`` gets its weights.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.known import KNOWN_MODELS, PartConfigs
from trainer_core.errors import BaseModelError
from trainer_core.paths import find_folder, is_folder, places_of

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model on the operator's list."""

    model: BaseModel


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder with a transformer in diffusers' layout; other parts may be missing."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Known:
    """A model whose shape is built in: one published on the Hub, or a test model."""

    name: str
    parts: PartConfigs


@dataclass(frozen=True, slots=True)
class HubName:
    """Any other ``owner/name``; the Hub may not have such a repository."""

    name: str
    tried: tuple[Path, ...]
    """The places where a folder of this name was looked up."""


@dataclass(frozen=True, slots=True)
class NoModel:
    """A folder that has no transformer."""

    name: str
    folder: Path

    def error(self) -> BaseModelError:
        return BaseModelError(
            f"{self.folder} is not a base model in diffusers' layout: it has no transformer"
        )


@dataclass(frozen=True, slots=True)
class NotFound:
    """A path that does not exist, or an unknown name."""

    name: str
    tried: tuple[Path, ...]
    is_path: bool

    def error(self) -> BaseModelError:
        tried = ", ".join(str(place)[:300] for place in self.tried)
        return BaseModelError(
            f"there is no base model {self.name[:200]}; these places were tried: {tried}; known "
            f"names: {', '.join(KNOWN_MODELS)}"
        )


Meaning = Listed | LocalFolder | Known | HubName | NoModel | NotFound


def resolve(name: str, listed: Mapping[str, BaseModel], folders: Sequence[Path]) -> Meaning:
    """Which model ``name`` refers to: the first match in the order of ``Meaning``.

    Args:
        name: as given in a configuration or on the command line.
        listed: the operator's list of base models.
        folders: a relative path is looked up in each; if empty, no folder is looked up.
    """
    if name in listed:
        return Listed(listed[name])
    places = places_of(name, folders)
    for place in places:
        if is_folder(place / "transformer"):
            return LocalFolder(name, place)
    if name in KNOWN_MODELS:
        return Known(name, KNOWN_MODELS[name])
    if (folder := find_folder(name, folders)) is not None:
        return NoModel(name, folder)
    if is_hub_name(name):
        return HubName(name, places)
    return NotFound(name, places, _is_path(name))


def is_hub_name(name: str) -> bool:
    """Whether ``name`` has the form of a Hub repository, ``owner/name``."""
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or ".." in name
