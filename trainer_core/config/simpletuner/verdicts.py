"""What Reverie does with an option of SimpleTuner: one verdict each, kept as data.

``honoured``: it acts. ``superseded``: something else does its work here; the run goes on and a
warning says what. ``deferred``: read, typed and kept in the plan, without effect in this version.
``not_implemented``: an error, unless it is given at a value that asks for nothing. ``refused``: an
error for good. A name without a verdict is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Kind = Literal["honoured", "superseded", "deferred", "refused", "not_implemented"]
ValueType = Literal["int", "float", "bool", "text", "path", "any"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One option."""

    kind: Kind
    type: ValueType
    reason: str
    """One sentence for the tenant: what it does here, what does it instead, or what to do."""
    default: JsonValue = None
    choices: tuple[str, ...] = ()
    """Values that work; empty: any of the type."""
    is_list: bool = False
    """Text that holds several of the choices, with commas between them."""
    known: tuple[str, ...] = ()
    """Values that SimpleTuner has and this version has not."""
    off: tuple[JsonValue, ...] = ()
    """Values at which an option that is not built asks for nothing."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    alias_of: str | None = None


Table = Mapping[str, Verdict]


def words(text: str) -> tuple[str, ...]:
    """The blank-separated words of a text."""
    return tuple(text.split())


def honoured(
    type_: ValueType,
    default: JsonValue,
    reason: str,
    *,
    choices: tuple[str, ...] = (),
    known: tuple[str, ...] = (),
    is_list: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Verdict:
    return Verdict(
        kind="honoured",
        type=type_,
        reason=reason,
        default=default,
        choices=choices,
        known=known,
        is_list=is_list,
        at_least=at_least,
        above=above,
        at_most=at_most,
    )


def alias(of: str, target: Verdict) -> Verdict:
    """Another name of ``of``."""
    return Verdict(
        kind=target.kind,
        type=target.type,
        reason=f"The same as {of}.",
        default=target.default,
        choices=target.choices,
        known=target.known,
        is_list=target.is_list,
        at_least=target.at_least,
        above=target.above,
        at_most=target.at_most,
        alias_of=of,
    )


def superseded(names: str, reason: str, type_: ValueType = "any") -> dict[str, Verdict]:
    """The verdict for each of the blank-separated ``names``."""
    return {n: Verdict(kind="superseded", type=type_, reason=reason) for n in names.split()}


def deferred(names: str, reason: str, type_: ValueType) -> dict[str, Verdict]:
    """As ``superseded``."""
    return {n: Verdict(kind="deferred", type=type_, reason=reason) for n in names.split()}


def not_built(
    names: str, reason: str, *off: JsonValue, type_: ValueType = "any"
) -> dict[str, Verdict]:
    """As ``superseded``; null and the empty text always ask for nothing."""
    verdict = Verdict(kind="not_implemented", type=type_, reason=reason, off=off)
    return dict.fromkeys(names.split(), verdict)


def not_built_but(off: Mapping[str, JsonValue], reason: str) -> dict[str, Verdict]:
    """As ``not_built``, each option with the one value at which it asks for nothing.

    None: only what asks for nothing in any option. Values are never shared: what is neutral to one
    option asks another for something.
    """
    return {
        name: Verdict(
            kind="not_implemented",
            type="any",
            reason=reason,
            off=() if value is None else (value,),
        )
        for name, value in off.items()
    }


def refused(names: str, reason: str, *off: JsonValue) -> dict[str, Verdict]:
    """As ``not_built``, for good."""
    return {n: Verdict(kind="refused", type="any", reason=reason, off=off) for n in names.split()}
