"""Configuration files as people write them: JSON with comments and trailing commas, and TOML."""

import json
import math
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

import json5
from pydantic import JsonValue

from trainer_core.errors import DocumentError

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
MAX_LENIENT_BYTES: Final = 256 * 1024
"""Limit for files that are not plain JSON: the json5 library reads about 60 KB per second."""

_MOST_DIGITS: Final = 400
"""Of a whole number; the largest float has 309."""
_SHOWN_DIGITS: Final = 40

_JSON5_POSITION: Final = re.compile(r"^<string>:(\d+) (.*?)(?: at column (\d+))?$", re.DOTALL)


class DuplicateKeyError(Exception):
    """Two keys of one object are the same."""


def parse_document(text: str, *, name: str) -> JsonValue:
    """The value in ``text``: JSON, or JSON5 (comments, trailing commas, a byte-order mark).

    Raises DocumentError, whose message names ``name`` and the line, if the text is not JSON5, has a
    duplicate key or a number that is no finite float, is nested too deep, or is larger than 4 MiB
    (256 KiB if it is not plain JSON).
    """
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"{name}: {size_bytes} bytes, more than {MAX_DOCUMENT_BYTES}")
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    try:
        return _parse_plain(text)
    except DuplicateKeyError as error:
        raise DocumentError(_duplicate_message(text, name, str(error))) from error
    except RecursionError as error:
        raise DocumentError(f"{name}: nested too deep") from error
    except json.JSONDecodeError:
        if size_bytes > MAX_LENIENT_BYTES:
            raise DocumentError(
                f"{name}: a file with comments or trailing commas may have at most "
                f"{MAX_LENIENT_BYTES} bytes, this one has {size_bytes}"
            ) from None
        return _parse_lenient(text, name)
    except ValueError as error:
        raise DocumentError(f"{name}: {error}") from error


def load_document(path: Path) -> JsonValue:
    """The value in a file; raises DocumentError, also if it cannot be read or is not UTF-8."""
    return parse_document(read_text(path), name=str(path))


def load_toml(path: Path) -> dict[str, JsonValue]:
    """The values in a TOML file; raises DocumentError, whose message names the line."""
    text = read_text(path, MAX_LENIENT_BYTES)
    try:
        values = tomllib.loads(text, parse_float=_finite)
        # A date is no value of an option.
        written = json.dumps(values, default=_no_date)
        found: dict[str, JsonValue] = json.loads(written, parse_int=_whole)
    except RecursionError as error:
        raise DocumentError(f"{path}: nested too deep") from error
    except ValueError as error:
        raise DocumentError(f"{path}: {_in_words(error)}") from error
    return found


def _in_words(error: ValueError) -> str:
    """What is wrong with a TOML file, whose parser leaves the length of a number to Python."""
    text = str(error)
    return "a number is too long" if "set_int_max_str_digits" in text else text


def _no_date(value: object) -> NoReturn:
    raise ValueError(f"a date is no value of an option: {value}")


def read_text(path: Path, most_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """The text of a file; raises DocumentError if it cannot be read, is too large or not UTF-8."""
    try:
        if path.stat().st_size > most_bytes:
            raise DocumentError(f"{path}: more than {most_bytes} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _parse_plain(text: str) -> JsonValue:
    value: JsonValue = json.loads(text, **_HOOKS)
    return value


def _parse_lenient(text: str, name: str) -> JsonValue:
    try:
        value: JsonValue = json5.loads(text, **_HOOKS)
    except DuplicateKeyError as error:
        raise DocumentError(_duplicate_message(text, name, str(error))) from error
    except RecursionError as error:
        raise DocumentError(f"{name}: nested too deep") from error
    except ValueError as error:
        found = _JSON5_POSITION.match(str(error))
        if found is None:
            raise DocumentError(f"{name}: {error}") from error
        line, what, column = found.groups()
        where = f"line {line}" + (f", column {column}" if column else "")
        raise DocumentError(f"{name}, {where}: {what}") from error
    return value


def object_of_pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """For the hook of this name of JSON parsers; raises DuplicateKeyError with the key."""
    built: dict[str, Any] = {}
    for key, value in pairs:
        if key in built:
            raise DuplicateKeyError(key)
        built[key] = value
    return built


def _duplicate_message(text: str, name: str, key: str) -> str:
    """The parsers give no position of a key, so the message names every line that has it."""
    wanted = re.compile(rf"""["']?{re.escape(key)}["']?\s*:""")
    lines = [str(n) for n, line in enumerate(text.splitlines(), 1) if wanted.search(line)]
    where = f" (on line {', '.join(lines)})" if lines else ""
    return f"{name}: {json.dumps(key)} is given twice in one object{where}"


def no_constant(constant: str) -> NoReturn:
    """For the hook ``parse_constant``, which gets NaN and the infinities; raises ValueError."""
    raise ValueError(f"{constant} is not a number that an option can have")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{_short(digits)} is not a number that an option can have")
    return value


def _whole(digits: str, base: int = 10) -> int:
    """A whole number that a float can be close to; json5 gives the base of hexadecimal ones."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} characters is too long")
    value = int(digits, base)
    if abs(value) > sys.float_info.max:
        raise ValueError(f"{_short(digits)} is not a number that an option can have")
    return value


def _short(digits: str) -> str:
    return digits if len(digits) <= _SHOWN_DIGITS else f"{digits[:_SHOWN_DIGITS]}…"


_HOOKS: Final[dict[str, Any]] = {
    "object_pairs_hook": object_of_pairs,
    "parse_constant": no_constant,
    "parse_float": _finite,
    "parse_int": _whole,
}
"""How both parsers read objects and numbers."""
