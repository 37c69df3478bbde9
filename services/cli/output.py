"""What commands print: JSON for programs, tables for people, and one line for each problem."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

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


def consoles() -> "tuple[Console, Console]":
    """For results (stdout) and for everything else (stderr)."""
    from rich.console import Console  # not before something is printed

    return Console(soft_wrap=True, highlight=False), Console(
        stderr=True, soft_wrap=True, highlight=False
    )


def print_json(body: Any) -> None:
    """One JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def print_error(text: str) -> None:
    """Plain text on stderr: it may quote what a tenant wrote."""
    sys.stderr.write(f"error: {text}\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose columns are never shortened, so that ids can be copied."""
    from rich.table import Table
    from rich.text import Text

    out, _ = consoles()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(Text(str(cell), style=_COLOURS.get(str(cell), "")) for cell in row))
    out.width = max(out.width, 200)  # rich would shorten columns to the terminal's width
    out.print(table, crop=False, no_wrap=True)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one pair a line; a value of None is left out."""
    from rich.text import Text

    out, _ = consoles()
    wide = max(len(name) for name in facts)
    for name, value in facts.items():
        if value is not None:
            line = Text(f"{name:<{wide}}  ", style="dim")
            line.append(str(value), style=_COLOURS.get(str(value).partition(" ")[0], "not dim"))
            out.print(line)


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
    from rich.text import Text

    _, err = consoles()
    err.print(Text(text))


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
