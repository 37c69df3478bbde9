"""Reads one object of options by a table, and collects all problems and notices."""

import difflib
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar, cast

from pydantic import JsonValue

from trainer_core.config.plan.problems import Effect, Notice, Problem, ProblemCode
from trainer_core.config.simpletuner.verdicts import Option, ValueType, Verdict

Source = Literal["http", "local"]
T = TypeVar("T")

_MAX_OPTIONS: Final = 2000
_MAX_NEAR_NAMES: Final = 50
"""At most this many unknown names get a suggestion: finding one takes milliseconds."""
_WORDS: Final = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOTHING: Final = ("", "none", "null", "false")
_KIND_OF_VALUE: Final[dict[ValueType, str]] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "text",
    "path": "text",
    "any": "a value",
}
_LARGEST_INT: Final = 2**53
"""Above this a JSON number is not exact everywhere."""


@dataclass(slots=True)
class Findings:
    """Problems and notices of one import, collected over all its parts."""

    problems: list[Problem] = field(default_factory=list)
    _notices: dict[tuple[Effect, str, str], Notice] = field(default_factory=dict)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """One for each option and message, in the order in which they were found."""
        return tuple(self._notices.values())

    def problem(self, pointer: str, code: ProblemCode, message: str) -> None:
        self.problems.append(Problem(pointer=pointer, code=code, message=message))

    def notice(
        self, effect: Effect, option: str, message: str, pointer: str, backend: str | None = None
    ) -> None:
        """Add a notice; where several data backends have the same one, it names all of them."""
        key = (effect, option, message)
        found = self._notices.get(key) or Notice(
            effect=effect, option=option, pointers=(), message=message
        )
        own = () if backend is None else (backend,)
        self._notices[key] = replace(
            found,
            pointers=tuple(dict.fromkeys((*found.pointers, pointer))),
            backends=tuple(dict.fromkeys((*found.backends, *own))),
        )


@dataclass(frozen=True, slots=True)
class Options:
    """One object of options as it was read: ``options[ROW]`` is the typed value or the default."""

    pointer: str
    """JSON Pointer to the object."""
    values: Mapping[str, Any]
    """Name of an honoured option that was given → its typed value."""
    names: Mapping[str, str]
    """Name of a written option, with a problem or without → its name as written."""
    findings: Findings
    source: Source
    backend: str | None = None
    """Id of the data backend whose options these are."""

    def __getitem__(self, option: Option[T]) -> T:
        return cast(T, self.values.get(option.name, option.default))

    def given(self, option: Option[Any]) -> bool:
        """Whether the option has a usable value that is not just the default."""
        return option.name in self.values

    def is_missing(self, option: Option[Any]) -> bool:
        """Whether the option was not written."""
        return option.name not in self.names

    def is_wrong(self, option: Option[Any]) -> bool:
        """Whether the option was written and already has a problem."""
        return option.name in self.names and option.name not in self.values

    def at(self, option: Option[Any]) -> str:
        """JSON Pointer to the option as it was written."""
        return f"{self.pointer}/{escaped(self.names.get(option.name, option.name))}"

    def problem(self, option: Option[Any], code: ProblemCode, message: str) -> None:
        """A problem at this option."""
        self.findings.problem(self.at(option), code, message)

    def notice(self, effect: Effect, option: Option[Any], message: str) -> None:
        """A notice at this option."""
        name = option_name(self.names.get(option.name, option.name))
        self.findings.notice(effect, name, message, self.at(option), self.backend)

    def differs(self, option: Option[Any], message: str) -> None:
        """The run acts differently from what SimpleTuner would do."""
        self.notice("differs", option, message)

    def handled(self, option: Option[Any], message: str) -> None:
        """Something here does the work of the option."""
        self.notice("handled", option, message)

    def idle(self, why: str, *options: Option[Any]) -> None:
        """Each of the options that was given has no effect; ``why`` begins "with …" or so."""
        for option in options:
            if self.given(option):
                self.notice("no_effect", option, f"has no effect {why}.")


def escaped(name: str) -> str:
    """A name as one part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def option_name(written: str) -> str:
    """The name of an option, which SimpleTuner's files may write with two dashes before it."""
    return written.removeprefix("--")


def written_value(raw: Mapping[str, JsonValue], name: str) -> JsonValue:
    """The value of an option as it is written, with two dashes or without; None where it is not."""
    return next((value for key, value in raw.items() if option_name(key) == name), None)


def read_options(
    raw: Mapping[str, JsonValue],
    table: Mapping[str, Verdict],
    pointer: str,
    findings: Findings,
    source: Source,
    *,
    backend: str | None = None,
) -> Options:
    """Every option of ``raw`` by its row in ``table``.

    As in SimpleTuner, leading dashes are dropped, null counts as not given, and numbers and
    booleans may be text: ``"false"`` is false.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    options = Options(pointer, values, names, findings, source, backend)
    if len(raw) > _MAX_OPTIONS:
        message = f"{len(raw)} options are given, more than {_MAX_OPTIONS}; there are {len(table)}."
        findings.problem(pointer, "bad_value", message)
        return options
    num_unknown = 0
    for written, value in raw.items():
        name = option_name(written) if isinstance(written, str) else str(written)
        row = table.get(name)
        if row is None:
            num_unknown += 1
            near = table if num_unknown <= _MAX_NEAR_NAMES else {}
            at = f"{pointer}/{escaped(written)}"
            findings.problem(at, "unknown_option", _unknown(written, name, near))
        elif value is not None:
            _read_known(row, written, value, options, values=values, names=names)
    return options


def _read_known(
    row: Verdict,
    written: str,
    value: JsonValue,
    options: Options,
    *,
    values: dict[str, Any],
    names: dict[str, str],
) -> None:
    """Add one option to ``names``, and its typed value to ``values`` where it has no problem."""
    findings = options.findings
    at = f"{options.pointer}/{escaped(written)}"
    proper = row.alias_of or row.name if isinstance(row, Option) else row.name
    if proper in names:
        if not (isinstance(row, Option) and _is_given_equally(row, value, values.get(proper))):
            message = f"{written} is given again as {names[proper]}, with another value: keep one."
            findings.problem(at, "conflict", message)
        return
    names[proper] = written
    if not isinstance(row, Option):
        _report(row, written, value, options)
        return
    if row.type == "path" and options.source == "http":
        if requests_nothing(value, ()):
            return
        message = "is a path, which the service does not read; contents are sent with the run."
        findings.notice("handled", option_name(written), message, at, options.backend)
        return
    typed = _typed(row, value, at, findings)
    if typed is not None:
        values[proper] = typed


def _is_given_equally(row: Option[Any], value: JsonValue, given: object) -> bool:
    """Whether another name of the option has the same value."""
    return given is not None and typed_value(row, value) == given


def typed_value(row: Option[T], value: JsonValue) -> T | None:
    """The value as the option has it; None where it is wrong for the option."""
    return cast(T | None, _typed(row, value, "", Findings()))


def _unknown(written: str, name: str, table: Mapping[str, Verdict]) -> str:
    close = _nearest(name[:100], tuple(table))
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no option {written[:100]}.{hint}"


@functools.lru_cache(maxsize=1000)
def _nearest(name: str, names: tuple[str, ...]) -> list[str]:
    """The runs of a sweep have the same mistakes, so that an answer is often asked for again."""
    return difflib.get_close_matches(name, names, n=3, cutoff=0.6)


def _report(row: Verdict, written: str, value: JsonValue, options: Options) -> None:
    """Add a notice about an option that does not act, or report it as a problem."""
    findings, name = options.findings, option_name(written)
    at = f"{options.pointer}/{escaped(written)}"
    match row.kind:
        case "differs":
            if not requests_nothing(value, row.off):
                findings.notice("differs", name, row.reason, at, options.backend)
        case "handled" | "no_effect":
            if not requests_nothing(value, ()):
                findings.notice(row.kind, name, row.reason, at, options.backend)
        case "removed":
            findings.notice("no_effect", name, row.reason, at, options.backend)
        case "not_implemented":
            if not requests_nothing(value, row.off):
                message = f"{row.name} is not built in this version. {row.reason}"
                findings.problem(at, "not_implemented", message)
        case "refused":
            if not requests_nothing(value, row.off):
                findings.problem(at, "refused", f"{row.name} is refused. {row.reason}")
        case "honoured":
            raise AssertionError(f"{row.name} is honoured, so its row has to be an Option")


def requests_nothing(value: JsonValue, off: tuple[JsonValue, ...]) -> bool:
    """Whether an option that is not built may have this value, because it turns nothing on."""
    if value is None or value is False or value in ([], {}):
        return True
    if isinstance(value, str):
        if value.strip().lower() in _NOTHING or value in off:
            return True
        value = number_in(value)
        if value is None:
            return False
    return any(not isinstance(o, bool) and value == o for o in off) and value is not True


def _typed(option: Option[Any], value: JsonValue, at: str, findings: Findings) -> Any:
    """The value in the option's type and range; None, and a problem, where it is wrong."""
    if option.type == "any":
        return value
    if (why := why_wrong(option, value)) is not None:
        findings.problem(at, "bad_value", f"{option.name} has to be {why}.")
        return None
    typed = _converted(option.type, value)
    return _chosen(option, str(typed), at, findings) if option.choices else typed


def why_wrong(option: Option[Any], value: JsonValue) -> str | None:
    """What a value has to be instead, such as "above 0, not -1"; None where it is right.

    Whether a choice is one of its row is not checked.
    """
    typed = _converted(option.type, value)
    if typed is None and option.is_secret:
        return _KIND_OF_VALUE[option.type]
    if typed is None:
        return f"{_KIND_OF_VALUE[option.type]}, not {_shown(value)}"
    if isinstance(typed, int | float) and (wrong := _out_of_range(option, typed)):
        return f"{wrong}, not {_shown(value)}"
    return None


def _chosen(option: Option[Any], text: str, at: str, findings: Findings) -> Any:
    """The value of a choice, or of each choice of a list; None, and problems, for unknown ones."""
    text = text.lower() if option.any_case else text
    items = [text]
    if option.is_list:
        items = [item.strip() for item in text.split(",") if item.strip()]
    wrong = [item for item in items if item not in option.choices]
    for item in wrong:
        possible = " or ".join(option.choices)
        if item in option.known:
            nearest = option.known[item]
            way_out = f"the nearest that is: {nearest}" if nearest else f"built: {possible}"
            message = f"{option.name}: {item} is not built in this version; {way_out}."
            findings.problem(at, "not_implemented", message)
        else:
            message = f"{option.name} has to be {possible}, not {_shown(item)}."
            findings.problem(at, "bad_value", message)
    if wrong:
        return None
    values = tuple(option.choices[item] for item in dict.fromkeys(items))
    return values if option.is_list else values[0]


def _out_of_range(option: Option[Any], value: float) -> str | None:
    if option.at_least is not None and value < option.at_least:
        return f"at least {option.at_least:.15g}"
    if option.above is not None and value <= option.above:
        return f"above {option.above:.15g}"
    if option.at_most is not None and value > option.at_most:
        return f"at most {option.at_most:.15g}"
    return None


def _converted(type_: ValueType, value: JsonValue) -> JsonValue:
    """The value in the type; None where it cannot be converted."""
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
    """A value as a text option reads it; None where it is not text."""
    text = _converted("text", value)
    return text if isinstance(text, str) else None


def number_in(text: str) -> float | None:
    """The finite number that a text is, without Python's own spellings such as ``1_000``."""
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
    if number is None or not abs(number) <= _LARGEST_INT:  # NaN neither
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
