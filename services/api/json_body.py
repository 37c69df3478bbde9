"""Reading the JSON of a request: UTF-8, no key twice, bounded numbers and depth."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from services.api.errors import InvalidJsonError
from services.api.pointers import json_pointer
from services.domain.errors import InvalidRequestError, Problem

MAX_DEPTH: Final = 32
MOST_NUMBER: Final = 10**22
"""The largest power of ten that a double holds exactly, so that all clients mean the same."""
_SHOWN_PARTS: Final = 4


def parse_body(body: bytes) -> Any:
    """The value in ``body``.

    Raises InvalidJsonError, which names line and column where the parser knows them, and
    InvalidRequestError for text and numbers that PostgreSQL cannot store.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf_8(error.start) from None
    try:
        value = json.loads(text, object_pairs_hook=object_of_pairs)
    except json.JSONDecodeError as error:
        raise not_json(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError:  # an integer of more digits than Python reads
        raise unreadable() from None
    if problems := list(unstorable(value, (), 1)):
        raise InvalidRequestError(problems)
    return value


def unexpected(value: Any) -> list[Problem]:
    """A problem for each member of a body that nobody reads."""
    message = "This address takes no body."
    if not isinstance(value, dict):
        return [Problem(pointer="", code="bad_value", message=message)]
    return [
        Problem(pointer=json_pointer([name]), code="unknown_field", message=message)
        for name in value
    ]


def no_body() -> InvalidRequestError:
    """The error where an operation needs a body and there is none."""
    problem = Problem(pointer="", code="missing", message="Field required.")
    return InvalidRequestError([problem])


def not_utf_8(position: int) -> InvalidJsonError:
    """The error where the byte at this position is not UTF-8."""
    return InvalidJsonError(f"The body is not UTF-8 (byte {position}).")


def not_json(message: str, line: int, column: int) -> InvalidJsonError:
    """The parser's message, and where it stopped; both from 1."""
    return InvalidJsonError(f"The body is not JSON at line {line}, column {column}: {message}.")


def too_deep(at: str = "") -> InvalidJsonError:
    """The error where the value at this JSON Pointer is nested too deep."""
    where = f" at {at}" if at else ""
    return InvalidJsonError(f"The body is nested deeper than {MAX_DEPTH} levels{where}.")


def unreadable() -> InvalidJsonError:
    """The error where Python cannot read a number."""
    return InvalidJsonError("The body has a number of too many digits.")


def object_of_pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its members; raises InvalidJsonError where a key is given twice."""
    built: dict[str, Any] = {}
    for key, value in pairs:
        if key in built:
            raise InvalidJsonError(f"The key {json.dumps(key)} is given twice in one object.")
        built[key] = value
    return built


def unstorable(value: Any, path: tuple[str, ...], depth: int) -> Iterator[Problem]:
    """A problem for each text with a NUL or half a surrogate pair, and each number out of range.

    Raises InvalidJsonError where the value is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise too_deep(json_pointer(path[:_SHOWN_PARTS]))
    if isinstance(value, str):
        if not _is_storable(value):
            yield _bad_text(path)
    elif isinstance(value, int | float):
        if not abs(value) <= MOST_NUMBER:  # NaN is neither
            message = f"Send a number between {-MOST_NUMBER:.0e} and {MOST_NUMBER:.0e}."
            yield Problem(pointer=json_pointer(path), code="bad_value", message=message)
    elif isinstance(value, dict):
        for key, item in value.items():
            if _is_storable(key):
                yield from unstorable(item, (*path, key), depth + 1)
            else:
                yield _bad_text(path)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from unstorable(item, (*path, str(position)), depth + 1)


def _bad_text(path: tuple[str, ...]) -> Problem:
    message = "The text has a NUL or half a surrogate pair, which cannot be stored."
    return Problem(pointer=json_pointer(path), code="bad_value", message=message)


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
