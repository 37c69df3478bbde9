"""Reads one object of options against a table of verdicts; collects everything that is wrong."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan.problems import Problem, ProblemCode
from trainer_core.config.simpletuner.verdicts import Table, ValueType, Verdict

Source = Literal["http", "local"]

_MAX_OPTIONS: Final = 2000
_MAX_NEAR_NAMES: Final = 50
"""Looking for a near name takes milliseconds."""
_WORDS: Final = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOTHING: Final = ("", "none", "null", "false")


@dataclass(slots=True)
class Findings:
    """What an import has to say; one object gathers it over all parts."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, pointer: str, code: ProblemCode, message: str) -> None:
        self.problems.append(Problem(pointer=pointer, code=code, message=message))

    def warn(self, message: str) -> None:
        """Say it once, however many data backends it holds for."""
        if message not in self.warnings:
            self.warnings.append(message)


@dataclass(frozen=True, slots=True)
class Options:
    """Options as read: typed, under their proper names."""

    pointer: str
    table: Table
    values: Mapping[str, JsonValue]
    """Honoured ones that were given."""
    deferred: Mapping[str, JsonValue]
    names: Mapping[str, str]
    """Proper name → the name as it was written."""

    def given(self, name: str) -> bool:
        return name in self.values

    def at(self, name: str) -> str:
        """JSON Pointer to the option as it was written."""
        return f"{self.pointer}/{escaped(self.names.get(name, name))}"

    def _get(self, name: str) -> JsonValue:
        return self.values.get(name, self.table[name].default)

    def text(self, name: str) -> str | None:
        value = self._get(name)
        return None if value is None else str(value)

    def integer(self, name: str) -> int:
        value = self._get(name)
        assert isinstance(value, int), name
        return value

    def number(self, name: str) -> float | None:
        value = self._get(name)
        assert value is None or isinstance(value, int | float), name
        return None if value is None else float(value)

    def flag(self, name: str) -> bool:
        return bool(self._get(name))

    def items(self, name: str) -> tuple[str, ...]:
        """The parts of a text with commas, in order, each once."""
        parts = (part.strip() for part in (self.text(name) or "").split(","))
        return tuple(dict.fromkeys(part for part in parts if part))

    def raw(self, name: str) -> JsonValue:
        return self._get(name)


def warn_idle(options: Options, names: Iterable[str], findings: Findings, why: str) -> None:
    """Say of each option that was written that it has no effect; ``why`` goes on the sentence."""
    for name in names:
        if options.given(name):
            findings.warn(f"{name} has no effect {why}.")


def escaped(name: str) -> str:
    """A name as one part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def read_options(
    raw: Mapping[str, JsonValue], table: Table, pointer: str, findings: Findings, source: Source
) -> Options:
    """Every option of ``raw`` under the verdict that ``table`` has on it.

    Leading dashes are dropped and null means not given, as in SimpleTuner. Numbers may be text, and
    so may booleans: ``"false"`` is false.
    """
    values: dict[str, JsonValue] = {}
    deferred: dict[str, JsonValue] = {}
    names: dict[str, str] = {}
    num_unknown = 0
    if len(raw) > _MAX_OPTIONS:
        message = f"{len(raw)} options are given, more than {_MAX_OPTIONS}; there are {len(table)}."
        findings.problem(pointer, "bad_value", message)
        return Options(pointer, table, values, deferred, names)
    for written, value in raw.items():
        name = written.removeprefix("--") if isinstance(written, str) else str(written)
        at = f"{pointer}/{escaped(written)}"
        verdict = table.get(name)
        if verdict is None:
            num_unknown += 1
            near = table if num_unknown <= _MAX_NEAR_NAMES else {}
            findings.problem(at, "unknown_option", _unknown(written, name, near))
            continue
        if value is None:
            continue  # as if it were not there
        proper = verdict.alias_of or name
        if proper in names:
            message = f"{written} is given again as {names[proper]}."
            findings.problem(at, "conflict", message)
            continue
        names[proper] = written
        if not _is_wanted(name, verdict, value, at, findings):
            continue
        if verdict.type == "path" and source == "http":
            findings.warn(f"{name}: paths have no meaning here; its content is part of the run.")
            continue
        typed = _typed(name, verdict, value, at, findings)
        if typed is not None:
            (deferred if verdict.kind == "deferred" else values)[proper] = typed
    return Options(pointer, table, values, deferred, names)


def _unknown(written: str, name: str, table: Table) -> str:
    close = difflib.get_close_matches(name[:100], table, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no option {written[:100]}.{hint}"


def _is_wanted(name: str, verdict: Verdict, value: JsonValue, at: str, findings: Findings) -> bool:
    """Whether the value is wanted; says what there is to say where it is not."""
    match verdict.kind:
        case "honoured" | "deferred":
            return True
        case "superseded":
            findings.warn(f"{name}: {verdict.reason}")
        case "not_implemented" if not asks_for_nothing(value, verdict.off):
            findings.problem(
                at, "not_implemented", f"{name} is not built in this version. {verdict.reason}"
            )
        case "refused" if not asks_for_nothing(value, verdict.off):
            findings.problem(at, "refused", f"{name} is refused. {verdict.reason}")
        case _:
            pass
    return False


def asks_for_nothing(value: JsonValue, off: tuple[JsonValue, ...]) -> bool:
    """Whether a value of an option that is not built leaves everything as it is."""
    if value is None or value is False or value in ([], {}):
        return True
    if isinstance(value, str):
        if value.strip().lower() in _NOTHING or value in off:
            return True
        value = number_in(value)
        if value is None:
            return False
    return any(not isinstance(o, bool) and value == o for o in off) and value is not True


def _typed(name: str, verdict: Verdict, value: JsonValue, at: str, findings: Findings) -> JsonValue:
    """The value in the verdict's type and range; None where it has none, with a problem."""
    if verdict.type == "any":
        return value
    typed = _converted(verdict.type, value)
    if typed is None:
        kind = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            verdict.type, "text"
        )
        findings.problem(at, "bad_value", f"{name} has to be {kind}, not {_shown(value)}.")
        return None
    if verdict.choices:
        wrong_ones = [item for item in _items(verdict, typed) if item not in verdict.choices]
        for item in wrong_ones:
            _bad_choice(name, verdict, item, at, findings)
        if wrong_ones:
            return None
    if isinstance(typed, int | float) and (wrong := _out_of_range(verdict, typed)):
        findings.problem(at, "bad_value", f"{name} has to be {wrong}, not {_shown(value)}.")
        return None
    return typed


def _items(verdict: Verdict, value: JsonValue) -> list[JsonValue]:
    """The parts of a list, blanks around them dropped; anything else alone."""
    if verdict.is_list and isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return [value]


def _bad_choice(name: str, verdict: Verdict, value: JsonValue, at: str, findings: Findings) -> None:
    possible = " or ".join(verdict.choices)
    if value in verdict.known:
        message = f"{name}: {value} is not built in this version; use {possible}. {verdict.reason}"
        findings.problem(at, "not_implemented", message)
    else:
        message = f"{name} has to be {possible}, not {_shown(value)}."
        findings.problem(at, "bad_value", message)


def _out_of_range(verdict: Verdict, value: float) -> str | None:
    if verdict.at_least is not None and value < verdict.at_least:
        return f"at least {verdict.at_least:.15g}"
    if verdict.above is not None and value <= verdict.above:
        return f"above {verdict.above:.15g}"
    if verdict.at_most is not None and value > verdict.at_most:
        return f"at most {verdict.at_most:.15g}"
    return None


_LARGEST_INT: Final = 2**53
"""Above, a JSON number is not exact everywhere."""


def _converted(type_: ValueType, value: JsonValue) -> JsonValue:
    match type_, value:
        case "bool", bool() | int() | str():
            return _WORDS.get(str(value).strip().lower())
        case "text" | "path", str():
            return value
        case "text" | "path", int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case "int" | "float", int() | float() | str() if not isinstance(value, bool):
            return _number(type_, value)
        case _:
            return None


def text_of(value: JsonValue) -> str | None:
    """A value as an option of text reads it; None where it is none."""
    text = _converted("text", value)
    return text if isinstance(text, str) else None


def number_in(text: str) -> float | None:
    """The finite number that a text is; without Python's own spellings such as ``1_000``."""
    if not text.isascii() or "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(type_: ValueType, value: int | float | str) -> JsonValue:
    number: float | None
    if isinstance(value, str):
        # int() first: it is exact where float() is not.
        number = int(value) if _is_digits(value) else number_in(value)
    else:
        number = value
    if number is None or not math.isfinite(number) or abs(number) > _LARGEST_INT:
        return None
    if type_ == "float":
        return float(number)
    return int(number) if number == int(number) else None


def _is_digits(value: str) -> bool:
    digits = value.strip().lstrip("+-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20


def _shown(value: JsonValue) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else shown[:60] + "…"
