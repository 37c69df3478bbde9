"""Tables of options, with one row for each option of SimpleTuner.

The kind of a row is

- ``honoured``: it acts. Such a row is an ``Option``, which reads the value as the right type.
- ``differs``: the run is accepted and trains the same weights, but something beside them is not
  done, such as pictures during the run. A notice says so.
- ``handled``: something here does its work, whatever the value. A notice says what.
- ``no_effect``: it changes nothing here, whatever the value. A notice says why.
- ``removed``: no SimpleTuner of today has it any more, and it has no effect.
- ``not_implemented``: an error, except at values that request nothing.
- ``refused``: the same, and it will not be built.

A name without a row is an unknown option, which is an error.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from pydantic import JsonValue

Kind = Literal[
    "honoured", "differs", "handled", "no_effect", "removed", "not_implemented", "refused"
]
ValueType = Literal["int", "float", "bool", "text", "path", "any"]

REMOVED: Final = "No longer exists in SimpleTuner; has no effect."

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Int = TypeVar("Int", bound=int | None)
Number = TypeVar("Number", bound=float | None)
Flag = TypeVar("Flag", bound=bool | None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """One row: an option and how it is treated."""

    name: str
    kind: Kind
    type: ValueType = "any"
    reason: str
    """One sentence for the user: what it does here, what does it instead, or what to do."""
    off: tuple[JsonValue, ...] = ()
    """Values at which an option that is not built requests nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Option(Verdict, Generic[T_co]):
    """An honoured option; its value is a ``T_co``."""

    kind: Kind = "honoured"
    default: T_co
    choices: Mapping[str, Any] = field(default_factory=dict)
    """Text as it is written → its value. Empty: any value of the type."""
    known: Mapping[str, str | None] = field(default_factory=dict)
    """Value that SimpleTuner has and this version has not → the nearest one here, if any."""
    is_list: bool = False
    """The text holds several choices with commas between them; the value is a tuple."""
    any_case: bool = False
    """Upper and lower case are the same."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    alias_of: str | None = None
    is_secret: bool = False
    """No message shows its value."""
    unlike: str = ""
    """How it acts differently from SimpleTuner's, in a sentence; empty where it does not."""


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


class Table:
    """The rows of one topic. Each method adds rows; those of honoured options return the row."""

    def __init__(self) -> None:
        self.rows: dict[str, Verdict] = {}

    def _add(self, row: Verdict) -> None:
        assert row.name not in self.rows, row.name
        self.rows[row.name] = row

    def _option(self, option: Option[T]) -> Option[T]:
        self._add(option)
        return option

    def integer(
        self,
        name: str,
        default: Int,
        reason: str,
        *,
        at_least: int | None = None,
        at_most: int | None = None,
    ) -> Option[Int]:
        """A whole number."""
        row = Option(name=name, type="int", default=default, reason=reason)
        return self._option(replace(row, at_least=at_least, at_most=at_most))

    def number(
        self,
        name: str,
        default: Number,
        reason: str,
        *,
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
    ) -> Option[Number]:
        """A finite number."""
        row = Option(name=name, type="float", default=default, reason=reason)
        return self._option(replace(row, at_least=at_least, above=above, at_most=at_most))

    def flag(self, name: str, default: Flag, reason: str) -> Option[Flag]:
        """True or false."""
        return self._option(Option(name=name, type="bool", default=default, reason=reason))

    def text(self, name: str, default: str | None, reason: str) -> Option[str | None]:
        """Any text."""
        return self._option(Option(name=name, type="text", default=default, reason=reason))

    def secret(self, name: str, reason: str) -> Option[str | None]:
        """Any text, which no message shows."""
        row = Option[str | None](name=name, type="text", default=None, reason=reason)
        return self._option(replace(row, is_secret=True))

    def path(self, name: str, reason: str) -> Option[str | None]:
        """A path, which only a local run takes."""
        return self._option(Option(name=name, type="path", default=None, reason=reason))

    def value(self, name: str, reason: str) -> Option[JsonValue]:
        """Any JSON, for the code that reads it to check."""
        return self._option(Option(name=name, type="any", default=None, reason=reason))

    def choice(
        self,
        name: str,
        values: Any,
        default: T,
        reason: str,
        *,
        known: Collection[str] = (),
        nearest: Mapping[str, str] | str | None = None,
        any_case: bool = False,
    ) -> Option[T]:
        """One of several texts.

        ``values``: a ``Literal`` type, whose texts are their own values; or text → value. Annotate
        the row with the type of its values, such as ``Option[Loss]``.

        ``known``: texts of SimpleTuner that are not built; ``nearest``: what to use instead of all
        or of each of them.
        """
        instead = nearest if isinstance(nearest, Mapping) else dict.fromkeys(known, nearest)
        row: Option[T] = Option(
            name=name,
            type="text",
            default=default,
            reason=reason,
            choices=values if isinstance(values, Mapping) else same(values),
            known={text: instead.get(text) for text in known},
            any_case=any_case,
        )
        return self._option(row)

    def choices(self, name: str, values: Mapping[str, T], reason: str) -> Option[tuple[T, ...]]:
        """Several of ``values`` with commas between them, each once; none by default."""
        row: Option[tuple[T, ...]] = Option(
            name=name, type="text", default=(), reason=reason, choices=values, is_list=True
        )
        return self._option(row)

    def alias(self, name: str, option: Option[T]) -> Option[T]:
        """A second name of an option."""
        reason = f"The same as {option.name}."
        return self._option(replace(option, name=name, reason=reason, alias_of=option.name))

    def unlike(self, option: Option[Any], sentence: str) -> None:
        """Note for the documentation how an option acts differently from SimpleTuner's."""
        self.rows[option.name] = replace(option, unlike=sentence)

    def differs(self, names: str, reason: str, *off: JsonValue) -> None:
        """What each of the ``names``, with blanks between them, requests is not done."""
        for name in names.split():
            self._add(Verdict(name=name, kind="differs", reason=reason, off=off))

    def handled(self, names: str, reason: str) -> None:
        """Something here does the work of each of the ``names``."""
        for name in names.split():
            self._add(Verdict(name=name, kind="handled", reason=reason))

    def no_effect(self, names: str, reason: str) -> None:
        """Each of the ``names`` changes nothing here."""
        for name in names.split():
            self._add(Verdict(name=name, kind="no_effect", reason=reason))

    def removed(self, names: str, reason: str = REMOVED) -> None:
        """SimpleTuner had each of the ``names`` once."""
        for name in names.split():
            self._add(Verdict(name=name, kind="removed", reason=reason))

    def not_built(
        self, names: str, reason: str, *off: JsonValue, type_: ValueType = "any"
    ) -> None:  # fmt: skip
        """Each of the ``names`` is an error but at null, at empty text and at ``off``."""
        for name in names.split():
            self._add(
                Verdict(name=name, kind="not_implemented", type=type_, reason=reason, off=off)
            )

    def refused(self, names: str, reason: str, *off: JsonValue) -> None:
        """As ``not_built``, for good."""
        for name in names.split():
            self._add(Verdict(name=name, kind="refused", reason=reason, off=off))


def same(literal: Any) -> dict[str, str]:
    """The texts of a ``Literal`` type, each as its own value."""
    return {text: text for text in get_args(literal)}


def joined(*tables: Table) -> Mapping[str, Verdict]:
    """One table of several; no name may be in two of them."""
    rows: dict[str, Verdict] = {}
    for table in tables:
        assert not rows.keys() & table.rows.keys(), rows.keys() & table.rows.keys()
        rows |= table.rows
    return rows
