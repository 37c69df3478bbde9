"""The options in which two plans differ, for the message that refuses a checkpoint."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.field_options import OPTIONS

_NAMED: Final = 8
"""At most this many fields are listed: a changed LyCORIS preset differs in hundreds."""
_VALUE_CHARACTERS: Final = 60
_ABSENT: Final = "absent"
_KEYS: Final = ("id", "path")
"""What names the items of a list of objects: data backends, adapted modules."""
_MODULES: Final = ("adapter", "modules")
_SHA256: Final = "sha256"
_SEVERAL: Final = "optimizer_config"
"""An option that sets several fields."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a value is in the identity."""

    names: tuple[str, ...]
    """Without list items."""
    item: str | None = None
    """Which item of the list that it is in."""

    def below(self, name: str) -> "_Field":
        return _Field((*self.names, name), self.item)

    def in_words(self) -> str:
        """``learning_rate``, or ``data backend photos, resolution``."""
        own = self.names[-1]
        is_of_module = self.names[:2] == _MODULES and len(self.names) > len(_MODULES)
        path = ".".join(_MODULES if is_of_module else self.names)
        option = OPTIONS.get(path, path)
        if is_of_module or option == _SEVERAL:
            option = f"{option} ({own})"
        if self.item is None:
            return option
        item = f"{'data backend' if self.names[0] == 'backends' else 'module'} {self.item}"
        return item if own in ("backends", "modules") else f"{item}, {option}"


def differences(here: Mapping[str, JsonValue], there: Mapping[str, JsonValue]) -> list[str]:
    """One text for each of the first eight fields that differ, then the number of the others.

    The base model is left out: ``contents`` names its files.

    Args:
        here: the identity of this run's plan, as JSON.
        there: the identity in the checkpoint's manifest.

    Returns:
        Texts such as ``learning_rate: 0.001 here, 0.01 in the checkpoint``; empty where equal.
    """
    pairs = ({k: v for k, v in each.items() if k != "base"} for each in (here, there))
    found = list(_walk(_Field(()), *pairs))
    names = {field.names for field, _ in found}
    if ("model_type",) in names:  # another kind of adapter has other fields
        found = [each for each in found if each[0].names[0] != "adapter"]
    elif any(each[0] == "adapter" and each[:2] != _MODULES for each in names):
        # An option of the whole adapter changes a field of each of its modules.
        found = [each for each in found if each[0].names[:2] != _MODULES]
    texts = [f"{field.in_words()}: {text}" for field, text in found]
    more = [f"and {len(texts) - _NAMED} more fields"] if len(texts) > _NAMED else []
    return texts[:_NAMED] + more


def _walk(field: _Field, here: JsonValue, there: JsonValue) -> Iterator[tuple[_Field, str]]:
    match here, there:
        case dict(), dict():
            yield from _walk_fields(field, here, there)
        case list(), list() if (key := _key_of([*here, *there])) is not None:
            yield from _walk_items(field, here, there, key)
        case list(), list() if len(here) != len(there):
            yield field, f"{len(here)} entries here, {len(there)} in the checkpoint"
        case list(), list():
            for pair in zip(here, there, strict=True):
                yield from _walk(field, *pair)
        case str(), str() if here != there and field.names[-1] == _SHA256:
            yield field, "another file here than in the checkpoint"
        case _ if here != there or type(here) is not type(there):  # 1 and 1.0 are different JSON
            yield field, f"{_short(here)} here, {_short(there)} in the checkpoint"


def _walk_fields(
    field: _Field, here: Mapping[str, JsonValue], there: Mapping[str, JsonValue]
) -> Iterator[tuple[_Field, str]]:
    for name in [*here, *(each for each in there if each not in here)]:
        if name in here and name in there:
            yield from _walk(field.below(name), here[name], there[name])
        else:
            mine, theirs = (_shown(each, name) for each in (here, there))
            yield field.below(name), f"{mine} here, {theirs} in the checkpoint"


def _walk_items(
    field: _Field, here: Sequence[JsonValue], there: Sequence[JsonValue], key: str
) -> Iterator[tuple[_Field, str]]:
    """Items of two lists, by their names."""
    mine, theirs = ({str(_get(each, key)): each for each in side} for side in (here, there))
    for item in [*mine, *(each for each in theirs if each not in mine)]:
        if item in mine and item in theirs:
            yield from _walk(_Field(field.names, item), mine[item], theirs[item])
        else:
            only = "only here" if item in mine else "only in the checkpoint"
            yield _Field(field.names, item), only


def _key_of(items: Sequence[JsonValue]) -> str | None:
    """What names the items, where each of them has it."""
    for key in _KEYS:
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _get(item: JsonValue, key: str) -> JsonValue:
    assert isinstance(item, dict)
    return item[key]


def _shown(of: Mapping[str, JsonValue], name: str) -> str:
    return _short(of[name]) if name in of else _ABSENT


def _short(value: JsonValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "set"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"
