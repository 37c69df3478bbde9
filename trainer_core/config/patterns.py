"""Patterns of module paths, as expressions and as shell patterns, matched in bounded time.

Patterns come from strangers, and a regular expression can take Python's own matcher for ever. So
expressions run here as an automaton that reads each character once (Glushkov's construction: one
position for each character of the expression), which has the same answer for all it takes:
characters, sets, groups, choices, ``*``, ``+``, ``?`` and the anchors at either end.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

MAX_PATTERN_CHARACTERS: Final = 200
_MAX_MOVES: Final = 2000
"""Moves that one automaton may learn; on the true model's paths ordinary ones need some hundred."""
_ONE: Final = re.compile(r"\\[.dDwW]|\[\^?(?:\\[.dDwW]|[A-Za-z0-9_.\-])+\]|[A-Za-z0-9_.\-]")
"""What stands for one character."""
_REPEAT: Final = re.compile(r"[*+?]\??(?![*+?{])")
"""A repetition; whether it is lazy makes no difference to whether there is a match."""
_END: Final = ""
"""The symbol after the last character, which only ``$`` takes."""


class UnsupportedPatternError(ValueError):
    """An expression with more than is taken here."""


def matcher(pattern: str, *, use_fnmatch: bool) -> Callable[[str], bool]:
    """Whether a path is the pattern or matches it, as ``fnmatch`` or ``re.match`` would say.

    Raises UnsupportedPatternError; so may what it returns, where the pattern takes too many moves.
    """
    if use_fnmatch:
        test = re.compile(fnmatch.translate(pattern))
        return lambda path: test.match(path) is not None or path == pattern
    automaton = _automaton(pattern)
    return lambda path: path == pattern or automaton.matches(path)


class _Part(NamedTuple):
    """A piece of an expression; positions are bits."""

    may_be_empty: bool
    first: int
    last: int


_EMPTY: Final = _Part(True, 0, 0)


class _Automaton:
    """One expression."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._symbols: list[re.Pattern[str]] = []
        self._follow: list[int] = []
        self._moves: dict[tuple[int, str], tuple[int, bool]] = {}
        self._whole = self._choice(depth=0)
        if self._at < len(pattern):
            raise UnsupportedPatternError(pattern)

    def matches(self, text: str) -> bool:
        """Whether the expression matches a beginning of the text."""
        if self._whole.may_be_empty:
            return True
        ahead = self._whole.first
        for character in text:
            ahead, is_match = self._move(ahead, character)
            if is_match or not ahead:
                return is_match
        return self._move(ahead, _END)[1]

    def _move(self, ahead: int, symbol: str) -> tuple[int, bool]:
        """Positions that may take the next symbol, and whether the expression has matched."""
        known = self._moves.get((ahead, symbol))
        if known is not None:
            return known
        if len(self._moves) >= _MAX_MOVES:
            raise UnsupportedPatternError(self._pattern)
        taken = following = 0
        for position in _bits(ahead):
            if self._symbols[position].fullmatch(symbol):
                taken |= 1 << position
                following |= self._follow[position]
        move = (following, bool(taken & self._whole.last))
        self._moves[ahead, symbol] = move
        return move

    def _choice(self, *, depth: int) -> _Part:
        whole = self._sequence(depth)
        while self._pattern.startswith("|", self._at):
            self._at += 1
            other = self._sequence(depth)
            whole = _Part(
                whole.may_be_empty or other.may_be_empty,
                whole.first | other.first,
                whole.last | other.last,
            )
        return whole

    def _sequence(self, depth: int) -> _Part:
        if depth == 0 and self._pattern.startswith("^", self._at):
            self._at += 1
        whole = _EMPTY
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            part = self._repeated(self._piece(depth))
            self._link(whole.last, part.first)
            whole = _Part(
                whole.may_be_empty and part.may_be_empty,
                whole.first | (part.first if whole.may_be_empty else 0),
                part.last | (whole.last if part.may_be_empty else 0),
            )
        return whole

    def _piece(self, depth: int) -> _Part:
        character = self._pattern[self._at]
        if character == "(":
            self._at += 3 if self._pattern.startswith("(?:", self._at) else 1
            inside = self._choice(depth=depth + 1)
            if not self._pattern.startswith(")", self._at):
                raise UnsupportedPatternError(self._pattern)
            self._at += 1
            return inside
        if character == "$":
            self._at += 1
            return self._position("")
        one = _ONE.match(self._pattern, self._at)
        if one is None or "--" in one.group():  # in a set it may once mean a difference of sets
            raise UnsupportedPatternError(self._pattern)
        self._at = one.end()
        return self._position(one.group())

    def _position(self, symbol: str) -> _Part:
        try:
            self._symbols.append(re.compile(symbol))
        except re.error as error:  # such as a set from z to a
            raise UnsupportedPatternError(self._pattern) from error
        self._follow.append(0)
        bit = 1 << (len(self._symbols) - 1)
        return _Part(False, bit, bit)

    def _repeated(self, part: _Part) -> _Part:
        repeat = _REPEAT.match(self._pattern, self._at)
        if repeat is None:
            return part
        self._at = repeat.end()
        if repeat.group()[0] in "*+":
            self._link(part.last, part.first)
        return part if repeat.group()[0] == "+" else part._replace(may_be_empty=True)

    def _link(self, before: int, after: int) -> None:
        for position in _bits(before):
            self._follow[position] |= after


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


@functools.lru_cache(maxsize=1024)
def _automaton(pattern: str) -> _Automaton:
    return _Automaton(pattern)
