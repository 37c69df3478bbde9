"""JSON Merge Patch (RFC 7396), and the differences between two documents. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_LONG_LIST: Final = 16
"""A longer list whose items differ is one difference: its items are too many to show."""
_MOST: Final = 200


def merged(target: Any, patch: Any) -> Any:
    """``target`` with the members of ``patch``; None removes a member, lists are replaced whole."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One value that differs; None where a document lacks it."""

    option: str
    """JSON Pointer."""
    before: Any
    after: Any


def differences(before: Any, after: Any) -> list[Difference]:
    """The values that differ, in the order of their pointers; at most 200."""
    found: list[Difference] = []
    _compare(before, after, "", found)
    return found[:_MOST]


def _compare(before: Any, after: Any, option: str, found: list[Difference]) -> None:
    if before == after and type(before) is type(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            at = f"{option}/{_escaped(name)}"
            if name in before and name in after:
                _compare(before[name], after[name], at, found)
            else:  # also where it is null in one and absent in the other
                found.append(_difference(at, before.get(name), after.get(name)))
    elif isinstance(before, list) and isinstance(after, list) and _are_comparable(before, after):
        for position, (old, new) in enumerate(zip(before, after, strict=True)):
            _compare(old, new, f"{option}/{position}", found)
    else:
        found.append(_difference(option, before, after))


def _difference(option: str, before: Any, after: Any) -> Difference:
    return Difference(option=option, before=_shown(before), after=_shown(after, before))


def _are_comparable(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) <= _LONG_LIST


def _shown(value: Any, before: Any = None) -> Any:
    """The value; of a long list its length in words, and how many items are other than before."""
    if not isinstance(value, list) or len(value) <= _LONG_LIST:
        return value
    text = f"{len(value)} items"
    if isinstance(before, list):
        others = sum(old != new for old, new in zip(before, value, strict=False))
        text += f", {others + abs(len(value) - len(before))} of them differ"
    return text


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
