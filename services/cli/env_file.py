"""Reads ``config.env``: lines ``export NAME=value`` as a shell would, but without running one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from trainer_core.errors import DocumentError

_ASSIGNMENT: Final = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)(\+?)=(.*)", re.DOTALL)
_EXPORT: Final = re.compile(r"export(?:[ \t]+[A-Za-z_][A-Za-z0-9_]*)+")
_REFERENCE: Final = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_ANOTHER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_COMMANDS: Final = "`;&|<>()"
_ESCAPED_IN_QUOTES: Final = '$`"\\'
_MAX_VALUE_CHARACTERS: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """A value of the file."""

    value: str
    line: int
    """Where it was last set."""


def parse_env(text: str, *, name: str, env: Mapping[str, str]) -> dict[str, Variable]:
    """The variables that a file sets.

    A value is a word, plain or in quotes, or several plain words; ``$NAME`` and ``${NAME}`` are
    replaced, ``+=`` appends, ``#`` begins a comment, a backslash goes on in the next line.

    Args:
        text: content of the file.
        name: of the file, for a message.
        env: variables that the file may refer to; its own come first.

    Raises:
        DocumentError: a line is no assignment, or needs a shell; names the line.
    """
    found: dict[str, Variable] = {}
    known = dict(env)
    for number, line in _lines(text):
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            if _EXPORT.fullmatch(line):
                continue
            raise DocumentError(
                f"{name}, line {number}: only lines NAME=value are read, and no command is run"
            )
        variable, plus, rest = match.groups()
        known.setdefault(variable, "")  # TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --more"
        try:
            value = _Value(rest, known).read()
        except ValueError as error:
            raise DocumentError(f"{name}, line {number}: {variable}: {error}") from error
        before = found[variable].value if plus and variable in found else ""
        if len(before) + len(value) > _MAX_VALUE_CHARACTERS:
            raise DocumentError(f"{name}, line {number}: {variable} is too long")
        known[variable] = before + value
        found[variable] = Variable(value=known[variable], line=number)
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is neither blank nor a comment."""
    first, parts = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        first = first if parts else number
        parts += line
        if _goes_on(parts):
            parts = parts[:-1]
            continue
        content, parts = parts.strip(), ""
        if content and not content.startswith("#"):
            yield first, content
    if parts.strip():
        yield first, parts.strip()


def _goes_on(line: str) -> bool:
    """Whether a backslash, which is not itself escaped, joins the next line."""
    ending = len(line) - len(line.rstrip("\\"))
    return ending % 2 == 1 and not line.lstrip().startswith("#")


class _Value:
    """Reads the text behind an equals sign."""

    def __init__(self, text: str, known: Mapping[str, str]) -> None:
        self._text, self._known = text, known
        self._at = 0

    def read(self) -> str:
        """The value; raises ValueError with what is wrong."""
        words: list[str] = []
        while True:
            if words and _ANOTHER.match(self._text, self._at):
                raise ValueError("write one NAME=value a line")
            words.append(self._word())
            while self._at < len(self._text) and self._text[self._at] in " \t":
                self._at += 1
            if self._at == len(self._text) or self._text[self._at] == "#":
                return " ".join(words)

    def _word(self) -> str:
        """Up to a blank outside quotes."""
        parts: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in " \t":
                break
            if character == "'":
                parts.append(self._until("'"))
            elif character == '"':
                parts.append(self._in_double_quotes())
            elif character == "$":
                parts.append(self._reference())
            elif character in _COMMANDS:
                raise ValueError(f"{character} needs a shell, and none is run; put it in quotes")
            else:
                if character == "\\":
                    self._at += 1
                parts.append(self._text[self._at : self._at + 1])
                self._at += 1
        return "".join(parts)

    def _until(self, quote: str) -> str:
        end = self._text.find(quote, self._at + 1)
        if end < 0:
            raise ValueError(f"the quote {quote} is not closed in this line")
        start, self._at = self._at + 1, end + 1
        return self._text[start:end]

    def _in_double_quotes(self) -> str:
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == '"':
                self._at += 1
                return "".join(parts)
            if character == "$":
                parts.append(self._reference())
                continue
            if character == "`":
                raise ValueError("` runs a command in a shell, and none is run")
            if character == "\\" and self._text[self._at + 1 : self._at + 2] in _ESCAPED_IN_QUOTES:
                self._at += 1
                character = self._text[self._at : self._at + 1]
            parts.append(character)
            self._at += 1
        raise ValueError('the quote " is not closed in this line')

    def _reference(self) -> str:
        match = _REFERENCE.match(self._text, self._at)
        if match is None:
            shown = self._text[self._at : self._at + 12]
            raise ValueError(f"{shown} needs a shell, and none is run; write the value")
        name = match[1] or match[2]
        if name not in self._known:
            raise ValueError(f"the variable {name} is not set")
        self._at = match.end()
        return self._known[name]
