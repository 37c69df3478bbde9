"""What commands print: JSON for programs, tables for people, and one line for each problem.

Tenants' texts must not command a terminal or forge lines, so everything that is printed has escapes
in place of control characters and hidden ones.
"""

import csv
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from services.domain.visible_text import escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]

_COLOURS = {
    "succeeded": "green",
    "ready": "green",
    "failed": "red",
    "rejected": "red",
    "canceled": "yellow",
    "canceling": "yellow",
    "paused": "yellow",
    "pausing": "yellow",
    "running": "cyan",
}
_COLOUR_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;]*m")


def consoles() -> "tuple[Console, Console]":
    """For results (stdout) and for everything else (stderr); plain text where NO_COLOR is set."""
    from rich.console import Console  # not before something is printed

    # rich alone would leave bold and dim.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return (
        Console(soft_wrap=True, highlight=False, color_system=colours),
        Console(stderr=True, soft_wrap=True, highlight=False, color_system=colours),
    )


def text_of(value: object, style: str = "") -> "Text":
    """A value for the terminal, in one line."""
    from rich.text import Text

    return Text(escaped(str(value)), style=style)


def print_json(body: Any) -> None:
    """One JSON document on stdout and nothing else, in ASCII: JSON has escapes for the rest."""
    sys.stdout.write(json.dumps(body, indent=2) + "\n")


def print_csv(rows: Iterable[Sequence[object]]) -> None:
    """Rows of CSV on stdout; the first one has the names of the columns."""
    writer = csv.writer(sys.stdout)
    writer.writerows(
        [escaped(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )


def print_log(text: str) -> None:
    """What a program printed: line breaks and tabs stay, and colours are left out.

    A carriage return ends a line, so that nothing is written over.
    """
    plain = _COLOUR_SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    sys.stdout.write(escaped(plain, keep="\n\t"))
    sys.stdout.flush()


def print_error(text: str) -> None:
    """Plain text on stderr; lines after the first are indented, so that none looks like another."""
    first, *others = text.split("\n")
    print_note(f"error: {first}")
    for line in others:
        print_note(f"  {line.strip()}")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, folds: bool = False
) -> None:
    """A table whose columns are never shortened, so that ids can be copied.

    ``folds``: in a narrow terminal cells have several lines instead.
    """
    from rich.table import Table

    out, _ = consoles()
    folds = folds and out.is_terminal
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(text_of(column), no_wrap=not folds, overflow="fold" if folds else "ignore")
    for row in rows:
        table.add_row(*(text_of(cell, _COLOURS.get(str(cell), "")) for cell in row))
    if folds:
        out.print(table, soft_wrap=False)
        return
    out.width = max(out.width, 200)  # rich would shorten columns to the terminal's width
    out.print(table, crop=False, no_wrap=True)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one pair a line; a value of None is left out."""
    out, _ = consoles()
    wide = max(len(name) for name in facts)
    for name, value in facts.items():
        if value is not None:
            line = text_of(f"{name:<{wide}}  ", "dim")
            line.append(text_of(value, _COLOURS.get(str(value).partition(" ")[0], "not dim")))
            _print_wrapped(out, line, indent=wide + 2)


def print_explained(name: str, value: str, reason: str, *, wide: int) -> None:
    """A name and a value as ``print_facts`` has them, and below the value its reason."""
    out, _ = consoles()
    line = text_of(f"{name:<{wide}}  ", "dim")
    line.append(text_of(value, "bold not dim"))
    _print_wrapped(out, line, indent=wide + 2)
    _print_wrapped(out, text_of(" " * (wide + 2) + reason), indent=wide + 2)


def _print_wrapped(console: "Console", line: "Text", *, indent: int) -> None:
    """A line: in a terminal whole words on each row, and rows after the first are indented."""
    from rich.text import Text

    if not console.is_terminal or line.cell_len <= console.width:
        console.print(line)
        return
    start, rest = line.divide([indent])
    rows = rest.wrap(console, max(console.width - indent, 20))
    for number, row in enumerate(rows):
        row.rstrip()
        console.print(Text.assemble(start if number == 0 else " " * indent, row))


def of_steps(step: int, max_steps: int) -> str:
    """How far a run is; its length is 0 until its epochs are counted."""
    return f"{step}/{max_steps or '?'}"


def print_deletion(deletion: Mapping[str, Any]) -> None:
    """A deletion, with what went and what was kept in lines of their own."""
    report: Mapping[str, Any] = deletion["report"]
    facts = {
        "deletion": deletion["id"],
        deletion["kind"]: deletion["target"],
        "status": deletion["status"],
        "waits for": deletion["waits_for"],
        **{f"rows of {table}": count for table, count in report.get("rows", {}).items()},
        **{
            f"objects in {folder}": f"{gone['num_objects']} ({gone['size_bytes']} bytes)"
            for folder, gone in report.get("objects", {}).items()
        },
        **{f"kept: {what}": number for what, number in report.get("shared", {}).items()},
    }
    print_facts(facts)
    for kept in report.get("kept", ()):
        print_note(f"kept: {kept['what']} {kept['id']} at {kept['place']}: {kept['reason']}")


def print_note(text: str) -> None:
    """A remark on stderr, so that it never mixes with a result."""
    _, err = consoles()
    _print_wrapped(err, text_of(text), indent=len(text) - len(text.lstrip(" ")) + 2)


def when(stamp: str | None) -> str | None:
    """An RFC 3339 time as local time, to the second."""
    if stamp is None:
        return None
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(size_bytes: float) -> str:
    """``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def amount(quota: str, value: float) -> str:
    """A limit or a use of a quota, in its own unit."""
    if quota == "storage_bytes":
        return size(value)
    return f"{value:,.1f}" if quota == "gpu_hours" else f"{value:,.0f}"
