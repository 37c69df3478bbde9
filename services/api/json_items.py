"""Reading a large JSON object piece by piece: some of its arrays are not held in memory.

The errors are those of ``json_body.parse_body``.
"""

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from typing import Any, BinaryIO, Final, NoReturn

from services.api.errors import InvalidJsonError
from services.api.json_body import not_json, object_of_pairs, too_deep, unreadable

_CHUNK_BYTES: Final = 256 << 10
MAX_VALUE_CHARACTERS: Final = 4 << 20
"""Of the values that are read at once: a member of the object, or an item of the array."""
_LOOK_AHEAD: Final = 16
"""This close to the end of what was read, an error may come from the cut, and a number go on."""
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_VALUES: Final = JSONDecoder(object_pairs_hook=object_of_pairs)

OnItem = Callable[[int, Any], None]
"""Takes an item of an array, with its position."""


@dataclass(frozen=True, slots=True)
class ItemCount:
    """Stands for the array whose items were passed on."""

    number: int


def read_items(source: BinaryIO, readers: Mapping[str, OnItem]) -> Any:
    """The value in ``source``, which is UTF-8.

    If it is an object with an array under a key of ``readers``, each item of the array is passed on
    to that reader, and an ItemCount is in the place of the array. Raises InvalidJsonError.
    """
    text = _Text(source)
    is_object = text.next_character() == "{"
    value = _object(text, readers) if is_object else text.value()
    if text.next_character():
        text.fail("Extra data")
    return value


def _object(text: "_Text", readers: Mapping[str, OnItem]) -> dict[str, Any]:
    members: list[tuple[str, Any]] = []
    text.skip("{")
    while text.next_character() != "}" or members:
        if text.next_character() != '"':
            text.fail("Expecting property name enclosed in double quotes")
        name = text.value()
        if text.next_character() != ":":
            text.fail("Expecting ':' delimiter")
        text.skip(":")
        if name in readers and text.next_character() == "[":
            members.append((name, ItemCount(_array(text, readers[name]))))
        else:
            text.next_character()
            members.append((name, text.value()))
        if text.next_character() != ",":
            break
        text.skip(",")
    if text.next_character() != "}":
        text.fail("Expecting ',' delimiter")
    text.skip("}")
    return object_of_pairs(members)


def _array(text: "_Text", on_item: OnItem) -> int:
    """Pass the items on; returns their number."""
    number = 0
    text.skip("[")
    while text.next_character() != "]" or number:
        on_item(number, text.value())
        number += 1
        if text.next_character() != ",":
            break
        text.skip(",")
    if text.next_character() != "]":
        text.fail("Expecting ',' delimiter")
    text.skip("]")
    return number


class _Text:
    """The text of a file with a position in it; what lies before the position is forgotten."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._is_complete = False
        self._lines = 0
        """Before ``_text``."""
        self._column = 0
        """Characters before ``_text`` in the line that it begins in."""

    def next_character(self) -> str:
        """The next character that is not space, where the position is then; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, character: str) -> None:
        """Move past this character, which is the next one."""
        self._at += len(character)

    def value(self) -> Any:
        """The JSON value at the position; moves past it. Raises InvalidJsonError."""
        while True:
            try:
                value, end = _VALUES.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                if self._is_complete or self._is_certain(error):
                    self._fail_at(error.pos, error.msg)
            except RecursionError:
                raise too_deep() from None
            except ValueError:  # an integer of more digits than Python reads
                raise unreadable() from None
            else:
                if self._is_complete or end + _LOOK_AHEAD < len(self._text):
                    self._at = end
                    return value
            self._read_more()

    def fail(self, message: str) -> NoReturn:
        self._fail_at(self._at, message)

    def _is_certain(self, error: JSONDecodeError) -> bool:
        """Whether more text cannot mend it. A string is reported where it begins."""
        is_cut = error.msg.startswith("Unterminated string")
        return not is_cut and error.pos + _LOOK_AHEAD < len(self._text)

    def _fail_at(self, position: int, message: str) -> NoReturn:
        line, column = self._place(position)
        raise not_json(message, line + 1, column + 1)

    def _place(self, position: int) -> tuple[int, int]:
        """Line and column, from 0, of a position in ``_text``."""
        line_feeds = self._text.count("\n", 0, position)
        if line_feeds == 0:
            return self._lines, self._column + position
        return self._lines + line_feeds, position - self._text.rindex("\n", 0, position) - 1

    def _read_more(self) -> bool:
        """Read as much again as is left, so that a long value is not read over and over.

        Returns False at the end of the source. Raises InvalidJsonError.
        """
        if self._is_complete:
            return False
        left = len(self._text) - self._at
        if left > MAX_VALUE_CHARACTERS:
            line, column = self._place(self._at)
            where = f"line {line + 1}, column {column + 1}"
            message = f"The value at {where} is longer than {MAX_VALUE_CHARACTERS} characters."
            raise InvalidJsonError(message)
        self._lines, self._column = self._place(self._at)
        chunk = self._source.read(max(_CHUNK_BYTES, left))
        self._is_complete = not chunk
        self._text = self._text[self._at :] + self._decoder.decode(chunk, final=not chunk)
        self._at = 0
        return True
