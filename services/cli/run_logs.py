"""`reverie runs logs`: what a run's training processes print."""

import re
import sys
from dataclasses import asdict
from typing import Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.run_options import RunId

_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-Z\\-~])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def logs(
    ctx: typer.Context,
    run_id: RunId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is over.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=1, max=2000, metavar="N", help="Only the last N lines.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show what the training process prints, of all attempts.

    Ctrl-C ends the showing, not the run.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        after = 0
        while True:
            page = client.list_logs(run_id, tail=tail, after=after)
            for piece in page.data:
                output.print_json(asdict(piece)) if as_json else _print(piece.text)
                after = piece.end_byte
            if not page.has_more:
                break
        if follow:
            for piece in client.stream_logs(run_id, after):
                output.print_json(asdict(piece)) if as_json else _print(piece.text)


def _print(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text without what would command a terminal."""
    return _CONTROL.sub("", _ESCAPE.sub("", text))
