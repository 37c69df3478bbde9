"""Patterns of module paths, as expressions and as shell patterns, matched in bounded time.

Patterns come from strangers, and a regular expression can take for ever. So only those expressions
are taken that never have to go back: characters, sets and groups of choices, repeated only where
what follows cannot be part of the repetition; and ``.*``, where the first fit is as good as any.
"""

import fnmatch
import functools
import itertools
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

MAX_PATTERN_CHARACTERS: Final = 200
_MAX_CHOICES: Final = 64
_ALPHABET: Final = frozenset(string.ascii_letters + string.digits + "._")
"""What paths of modules are made of."""

_CHOICES: Final = re.compile(r"\((?:\?:)?([^()]*)\)(?![*+?{])")
_ITEM: Final = re.compile(
    r"(?P<any>\.[*+])"
    r"|(?P<one>\\[.dw]|\[\^?(?:\\[.dw]|[A-Za-z0-9_.\-])+\]|[A-Za-z0-9_.\-])(?P<repeat>[*+?]?)"
)


class UnsupportedPatternError(ValueError):
    """An expression with more than names, sets, choices and repetitions of a kind."""


def matcher(pattern: str, *, use_fnmatch: bool) -> Callable[[str], bool]:
    """Whether a path is the pattern or matches it, as ``fnmatch`` or ``re.match`` would say.

    Raises UnsupportedPatternError.
    """
    test = re.compile(fnmatch.translate(pattern)) if use_fnmatch else _compiled(pattern)
    return lambda path: path == pattern or test.match(path) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if "--" in pattern:  # in a set it may once mean a difference of sets
        raise UnsupportedPatternError(pattern)
    try:
        return re.compile("|".join(_possessive(choice) for choice in _without_choices(pattern)))
    except re.error as error:  # such as a set from z to a
        raise UnsupportedPatternError(pattern) from error


def _without_choices(pattern: str) -> Iterator[str]:
    """The expression once for each way through its groups: ``a(b|c)`` is ``ab`` and ``ac``."""
    # Fixed text and the insides of groups take turns.
    parts = _CHOICES.split(pattern)
    ways = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    count = 1
    for way in ways:
        count *= len(way)
        if count > _MAX_CHOICES:
            raise UnsupportedPatternError(pattern)
    for way in itertools.product(*ways):
        yield from "".join(way).split("|")


class _Item(NamedTuple):
    """One character of a kind, or a run of them."""

    text: str
    repeat: str
    fits: frozenset[str]


def _possessive(pattern: str) -> str:
    """The same expression, which gives nothing back once it has taken it.

    A run takes all it can, because what follows it fits none of its characters. After ``.*`` the
    first fit of a segment is enough: a segment never ends earlier for having started later.
    """
    at_end = pattern.endswith("$")
    body = pattern.removeprefix("^").removesuffix("$")
    segments: list[list[_Item]] = [[]]
    position = 0
    while position < len(body):
        item = _ITEM.match(body, position)
        if item is None:
            raise UnsupportedPatternError(pattern)
        position = item.end()
        if item["any"]:
            if item["any"] == ".+":
                segments[-1].append(_Item(".", "", _ALPHABET))
            segments.append([])
        else:
            segments[-1].append(_Item(item["one"], item["repeat"], _fitting(item["one"])))
    *before, last = segments
    written = [_segment(items, is_open=True) for items in before]
    tail = _segment(last, is_open=not at_end) + (r"\Z" if at_end else "")
    if not written:
        return tail
    first, *middle = written
    return first + "".join(f"(?>.*?{segment})" for segment in middle) + f".*{tail}"


def _segment(items: Sequence[_Item], *, is_open: bool) -> str:
    """``is_open``: anything may follow; a run at the end then takes as little as it may."""
    written = ""
    for item, after in itertools.zip_longest(items, items[1:]):
        if not item.repeat:
            written += item.text
        elif after is None:
            shortest = item.text if item.repeat == "+" else ""
            written += shortest if is_open else f"{item.text}{item.repeat}+"
        elif after.repeat in ("*", "?") or after.fits & item.fits:
            raise UnsupportedPatternError("".join(i.text + i.repeat for i in items))
        else:
            written += f"{item.text}{item.repeat}+"
    return written


@functools.lru_cache(maxsize=256)
def _fitting(text: str) -> frozenset[str]:
    return frozenset(c for c in _ALPHABET if re.match(text, c))
