"""The fields in which two plans differ, for the message that refuses a checkpoint."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import JsonValue

_NAMED: Final = 8
"""At most this many fields are listed: a changed LyCORIS preset differs in hundreds."""
_VALUE_CHARACTERS: Final = 60
_ABSENT: Final = "absent"


def differences(here: Mapping[str, JsonValue], there: Mapping[str, JsonValue]) -> list[str]:
    """One text for each of the first eight fields that differ, then the number of the others.

    Args:
        here: the identity of this run's plan, as JSON.
        there: the identity in the checkpoint's manifest.

    Returns:
        Texts such as ``optimizer.betas.0: 0.9 here, 0.95 in the checkpoint``; empty where equal.
    """
    found = list(_walk("", dict(here), dict(there)))
    more = [f"and {len(found) - _NAMED} more fields"] if len(found) > _NAMED else []
    return found[:_NAMED] + more


def _walk(path: str, here: JsonValue, there: JsonValue) -> Iterator[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        for name in [*here, *(each for each in there if each not in here)]:
            below = f"{path}.{name}" if path else name
            if name in here and name in there:
                yield from _walk(below, here[name], there[name])
            else:
                mine, theirs = (_shown(each, name) for each in (here, there))
                yield f"{below}: {mine} here, {theirs} in the checkpoint"
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there, strict=True)):
            yield from _walk(f"{path}.{number}", *pair)
    elif isinstance(here, list) and isinstance(there, list):
        yield f"{path}: {len(here)} entries here, {len(there)} in the checkpoint"
    elif here != there or type(here) is not type(there):  # 1, 1.0 and true differ in the digest
        yield f"{path}: {_short(here)} here, {_short(there)} in the checkpoint"


def _shown(of: Mapping[str, JsonValue], name: str) -> str:
    return _short(of[name]) if name in of else _ABSENT


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"
