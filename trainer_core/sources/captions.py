"""The captions of a row, from its columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainer_core.config.simpletuner.source_types import CaptionColumns
from trainer_core.data.caption_changes import MAX_CAPTION_CHARACTERS

_LEVELS: Final = 16
_OF_DESCRIPTIONS: Final = ("main_subject", "description", "text")
"""Fields of an object that make one caption together, as in SimpleTuner."""


def captions_of_row(row: Mapping[str, Any], columns: CaptionColumns) -> tuple[str, ...]:
    """The captions of a row, each once; a list in a column gives one an item.

    A caption that is longer than captions may be is cut. Lists in lists are read 16 levels deep.
    """
    found = [text for column in columns.columns for text in _texts(value_in(row, column))]
    for column in columns.fallback if not found else ():
        found = found or _texts(_joined(value_in(row, column)))
    return tuple(dict.fromkeys(text[:MAX_CAPTION_CHARACTERS] for text in found))


def value_in(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column; of ``a.b`` field b of the object in column a. None where none is."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _texts(value: Any, levels: int = _LEVELS) -> list[str]:
    match value if levels else None:
        case None | bool():
            return []
        case str():
            return [value.strip()] if value.strip() else []
        case bytes():
            return _texts(value.decode("utf-8", "replace"))
        case Mapping():
            return [text for each in value.values() for text in _texts(each, levels - 1)]
        case Sequence():
            return [text for each in value for text in _texts(each, levels - 1)]
        case _:
            return [str(value)]


def _joined(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return " ".join(text for name in _OF_DESCRIPTIONS for text in _texts(value.get(name)))
