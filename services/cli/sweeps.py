"""`reverie runs submit --sweep`: many runs from one configuration."""

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from services.cli.documents import plain_name, value_of
from trainer_core.documents import parse_document
from trainer_core.errors import DocumentError

if TYPE_CHECKING:
    from services.client.batch_shapes import Sweep, SweepRange
    from services.domain.sweeps import Method

_RANGE: Final = re.compile(r"(?P<low>[-+.\deE]+?)\.\.(?P<high>[-+.\deE]+)(:(?P<scale>\w+))?")


def parse_sweep(
    texts: Sequence[str], *, method: "Method", num_runs: int | None, seed: int | None
) -> "Sweep | None":
    """The sweep of the options ``--sweep…``; None where there is no ``--sweep``.

    Raises typer.BadParameter.
    """
    if not texts:
        if method != "grid" or num_runs is not None or seed is not None:
            raise typer.BadParameter(
                "without --sweep there is nothing to combine", param_hint="--sweep"
            )
        return None
    options: dict[str, list[Any] | SweepRange] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = plain_name(name)
        if not (name and equals and values):
            raise _wrong(f"{text!r} is not NAME=VALUE,VALUE,…")
        if name in options:
            raise _wrong(f"{name} is given twice")
        options[name] = _values_of(name, values)
    sweep: Sweep = {"method": method, "options": options}
    if num_runs is not None:
        sweep["num_runs"] = num_runs
    if seed is not None:
        sweep["seed"] = seed
    return sweep


def _values_of(name: str, text: str) -> "list[Any] | SweepRange":
    """``1,2,3``, a JSON list, or a range such as ``1e-4..1e-2:log``."""
    if found := _RANGE.fullmatch(text):
        return _range_of(text, found)
    if text.startswith("["):
        return _listed(name, text)
    return [value_of(name, each) for each in text.split(",")]


def _listed(name: str, text: str) -> list[Any]:
    try:
        listed = parse_document(text, name=name)
    except DocumentError as error:
        raise _wrong(f"{text} is no JSON list: {error}") from error
    assert isinstance(listed, list)  # it begins as one
    return listed


def _range_of(text: str, found: re.Match[str]) -> "SweepRange":
    try:
        low, high = (_finite(found[end]) for end in ("low", "high"))
    except (ValueError, OverflowError) as error:
        raise _wrong(f"{text} is not a range such as 1e-4..1e-2 or 4..64:log") from error
    spread: SweepRange = {"min": low, "max": high}
    match found["scale"]:
        case None:
            pass
        case "linear" | "log" as scale:
            spread["scale"] = scale
        case scale:
            raise _wrong(f"the scale of a range is linear or log, not {scale}")
    return spread


def _finite(text: str) -> float:
    """The number, whole where it is written so. Raises ValueError or OverflowError."""
    number: float = json.loads(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _wrong(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--sweep")
