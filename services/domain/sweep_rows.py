"""Expands a sweep into rows: the values that each of its runs gives to the swept options.

A row is a function of the sweep alone. What the options mean is the planner's matter.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pydantic import JsonValue

from services.domain.errors import InvalidRequestError, Problem
from services.domain.sweeps import MAX_ROWS, Range, Sweep, Values
from trainer_core.config.simpletuner.reading import escaped, option_name

_LARGEST: Final = 2**53
"""Above this a JSON number is not exact everywhere."""
_DRAWS_A_ROW: Final = 100
"""Draws in search of a row that differs from all others, on average."""
_AT: Final = "/sweep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The value of one option in one row."""

    value: JsonValue
    position: int | None
    """In the list of values, from 0; None where it was drawn from a range."""


Row: TypeAlias = Mapping[str, Choice]
"""Name of an option as it was sent → its value."""


def expand(sweep: Sweep) -> list[Row]:
    """The rows, all different, at most ``MAX_ROWS``.

    - ``grid``: every combination; the last option changes fastest.
    - ``zip``: the first values of all options, then the second ones, and so on.
    - ``random``: drawn by ``seed``. A value depends on the seed, its option's name and the number
      of the draw only: more runs continue the same series, and another option changes nothing.

    Raises InvalidRequestError, with pointers into a body that has the sweep at ``/sweep``.
    """
    problems = [*_about_method(sweep), *_about_values(sweep)]
    if problems:
        raise InvalidRequestError(problems)
    if sweep.method == "random":
        return _drawn(sweep)
    return _grid(sweep) if sweep.method == "grid" else _zipped(sweep)


def at_option(name: str, position: int | None = None) -> str:
    """JSON Pointer to the values of an option, or to one of them."""
    inner = "" if position is None else f"/{position}"
    return f"{_AT}/options/{escaped(name)}{inner}"


def _about_method(sweep: Sweep) -> Iterator[Problem]:
    if not sweep.options:
        yield _problem(f"{_AT}/options", "missing", "Name at least one option to sweep over.")
    if sweep.method == "random":
        if sweep.num_runs is None:
            message = f"The method random needs num_runs, from 1 to {MAX_ROWS}."
            yield _problem(f"{_AT}/num_runs", "missing", message)
        return
    for name in ("num_runs", "seed"):
        if getattr(sweep, name) is not None:
            message = f"{name} is for the method random; {sweep.method} has no use for it."
            yield _problem(f"{_AT}/{name}", "conflict", message)


def _about_values(sweep: Sweep) -> Iterator[Problem]:
    for name, values in sweep.options.items():
        if isinstance(values, Range):
            if sweep.method == "random":
                yield from _about_range(name, values)
            else:
                message = f"A range is for the method random; for {sweep.method} list the values."
                yield _problem(at_option(name), "conflict", message)
        elif not values:
            yield _problem(at_option(name), "missing", f"{name} needs at least one value.")
        elif sweep.method != "zip":
            yield from _about_repeats(name, values)


def _about_range(name: str, values: Range) -> Iterator[Problem]:
    low, high = values.low, values.high
    if not (-_LARGEST <= low <= _LARGEST and -_LARGEST <= high <= _LARGEST):
        message = "min and max have to be from -2^53 to 2^53."
        yield _problem(at_option(name), "bad_value", message)
    elif low >= high:
        message = f"min has to be below max, not {low:g} and {high:g}."
        yield _problem(at_option(name), "bad_value", message)
    elif values.scale == "log" and low <= 0:
        message = f"With the scale log min has to be above 0, not {low:g}."
        yield _problem(at_option(name), "bad_value", message)


def _about_repeats(name: str, values: Sequence[JsonValue]) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, value in enumerate(values):
        text = _text(value)
        if text in seen:
            message = f"{name} has the value {_shown(text)} twice."
            yield _problem(at_option(name, position), "conflict", message)
        seen.add(text)


def _grid(sweep: Sweep) -> list[Row]:
    lists = _choices(sweep)
    number = math.prod(len(each) for each in lists.values())
    if number > MAX_ROWS:
        message = f"The grid has {number:,} runs, more than {MAX_ROWS}."
        raise InvalidRequestError([_problem(f"{_AT}/options", "bad_value", message)])
    return [dict(zip(lists, row, strict=True)) for row in itertools.product(*lists.values())]


def _zipped(sweep: Sweep) -> list[Row]:
    lists = _choices(sweep)
    first, length = next((name, len(each)) for name, each in lists.items())
    for name, each in lists.items():
        if len(each) != length:
            message = (
                f"zip needs as many values of each option: {first} has {length}, "
                f"and {name} has {len(each)}."
            )
            raise InvalidRequestError([_problem(at_option(name), "conflict", message)])
    if length > MAX_ROWS:
        message = f"The sweep has {length:,} runs, more than {MAX_ROWS}."
        raise InvalidRequestError([_problem(f"{_AT}/options", "bad_value", message)])
    rows: list[Row] = [
        dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)
    ]
    known: dict[str, int] = {}
    for number, row in enumerate(rows):
        same = known.setdefault(_key(row), number)
        if same != number:
            message = f"The values number {same} and {number} of all options are the same run."
            raise InvalidRequestError([_problem(f"{_AT}/options", "conflict", message)])
    return rows


def _choices(sweep: Sweep) -> dict[str, list[Choice]]:
    """Of options that all have lists of values."""
    return {
        name: [Choice(value=value, position=n) for n, value in enumerate(values)]
        for name, values in sweep.options.items()
        if not isinstance(values, Range)
    }


def _drawn(sweep: Sweep) -> list[Row]:
    assert sweep.num_runs is not None
    wanted = min(sweep.num_runs, MAX_ROWS)
    possible = math.prod(_num_values(values) for values in sweep.options.values())
    rows: dict[str, Row] = {}
    for number in range(wanted * _DRAWS_A_ROW if possible >= wanted else 0):
        row = {
            name: _draw(values, _share(sweep.seed or 0, option_name(name), number))
            for name, values in sweep.options.items()
        }
        rows.setdefault(_key(row), row)
        if len(rows) == wanted:
            return list(rows.values())
    found = f"{possible:,.0f}" if possible < wanted else f"hardly more than {len(rows)}"
    message = f"The options allow {found} different runs, and num_runs is {wanted}."
    raise InvalidRequestError([_problem(f"{_AT}/num_runs", "bad_value", message)])


def _num_values(values: Values) -> float:
    if not isinstance(values, Range):
        return len(values)
    return values.high - values.low + 1 if values.is_whole else math.inf


def _share(seed: int, name: str, number: int) -> float:
    """A number from 0 to below 1, the same in every version of Python."""
    digest = hashlib.sha256(f"{seed}:{number}:{name}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def _draw(values: Values, share: float) -> Choice:
    """The value that lies at this share of all."""
    if not isinstance(values, Range):
        position = int(share * len(values))
        return Choice(value=values[position], position=position)
    low, high = values.low, values.high
    # A whole number stands for all numbers up to the next one.
    end = high + 1 if values.is_whole else high
    if values.scale == "log":
        drawn = math.exp(math.log(low) * (1 - share) + math.log(end) * share)
    else:
        drawn = low * (1 - share) + end * share
    # Six digits are enough of a number that was drawn, and can be read.
    number = math.floor(drawn) if values.is_whole else float(f"{drawn:.6g}")
    return Choice(value=min(max(number, low), high), position=None)


def _key(row: Row) -> str:
    return _text([choice.value for choice in row.values()])


def _text(value: JsonValue) -> str:
    """The same text for equal JSON: 1 is 1.0, but neither "1" nor true."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def _with_whole_numbers(value: JsonValue) -> JsonValue:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(each) for each in value]
        case dict():
            return {name: _with_whole_numbers(each) for name, each in value.items()}
        case _:
            return value


def _shown(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _problem(pointer: str, code: str, message: str) -> Problem:
    return Problem(pointer=pointer, code=code, message=message)
