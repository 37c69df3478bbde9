"""deepspeed_config as it is written: an object, its text, a preset of SimpleTuner, or a path."""

import ast
import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.config.simpletuner.reading import requests_nothing
from trainer_core.documents import DuplicateKeyError, no_constant, object_of_pairs

_MAX_TEXT: Final = 50_000
"""Characters. Python's parser takes some memory for each."""
_PRESETS: Final = {"zero1": 1, "zero2": 2, "zero3": 3}
"""What SimpleTuner's presets of acceleration write in place of a configuration."""
_LIKE_A_PRESET: Final = re.compile(r"zero[ _-]?[0-9]*")
_MAX_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Unread:
    """Why a value is no configuration."""

    message: str
    """Goes on after ``deepspeed_config``; with the full stop."""


_NO_OBJECT: Final = Unread(
    "has to be an object, as JSON text or in a file too, or zero1, zero2 or zero3."
)


def is_preset(value: object) -> bool:
    """Whether a value is zero1, zero2 or zero3, in capitals too."""
    return isinstance(value, str) and value.strip().lower() in _PRESETS


def file_named_by(value: object) -> str | None:
    """The path that a value of ``deepspeed_config`` is; None where it is no path."""
    if not isinstance(value, str) or requests_nothing(value, ()):
        return None
    text = value.strip()
    is_content = text.startswith(("{", "[")) or _LIKE_A_PRESET.fullmatch(text.lower())
    return None if is_content else text


def content_of(value: object) -> Mapping[str, Any] | Unread:
    """The configuration that a value of ``deepspeed_config`` is, as an object."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_TEXT:
            return Unread(f"is longer than {_MAX_TEXT} characters: take entries out.")
        if is_preset(text):
            return {"zero_optimization": {"stage": _PRESETS[text.lower()]}}
        if _LIKE_A_PRESET.fullmatch(text.lower()):
            return Unread(f"has to be zero1, zero2 or zero3, not {in_ascii(text)}.")
        value = _parsed(text) if text.startswith(("{", "[")) else _NO_OBJECT
    return value if isinstance(value, Mapping | Unread) else _NO_OBJECT


def _parsed(text: str) -> object:
    """JSON, or Python's own notation, which SimpleTuner reads too; Unread where it is neither."""
    try:
        try:
            return _from_json(text)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            why = Unread(f"cannot be read as JSON, at {where}: {error.msg}.")
            found = _from_python(text)
            return why if found is None else found
    except DuplicateKeyError as error:
        return Unread(f"has {in_ascii(str(error))} twice in one object: keep one.")
    except RecursionError:
        return Unread("is nested too deep.")
    except ValueError:
        return Unread("has a number that is NaN, infinite or too long.")


def _from_json(text: str) -> object:
    """Raises ValueError, RecursionError and DuplicateKeyError."""
    return json.loads(text, object_pairs_hook=object_of_pairs, parse_constant=no_constant)


def _from_python(text: str) -> object:
    """None where it is not Python's notation; raises DuplicateKeyError."""
    try:
        tree = ast.parse(text, mode="eval")
        _check_keys(tree)
        # As JSON its keys become text, and no sets are left.
        return _from_json(json.dumps(ast.literal_eval(tree)))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _check_keys(tree: ast.AST) -> None:
    """Raise DuplicateKeyError where an object in Python's notation has a key twice."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys: list[Hashable] = [k.value for k in node.keys if isinstance(k, ast.Constant)]
            for key, count in Counter(keys).items():
                if count > 1:
                    raise DuplicateKeyError(str(key))


def in_ascii(text: str) -> str:
    """A text of the user for a message: short, and without characters that cannot be stored."""
    text = text[:_MAX_SHOWN] + "..." * (len(text) > _MAX_SHOWN)
    return text.encode("unicode_escape").decode()
