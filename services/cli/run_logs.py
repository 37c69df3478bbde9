"""`reverie runs logs`: what a run's training processes print."""

from dataclasses import asdict
from typing import Annotated

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.run_options import RunId


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
        after: int | None = None
        while True:
            page = client.list_logs(run_id, tail=tail, after=after)
            for piece in page.data:
                output.print_json(asdict(piece)) if as_json else output.print_log(piece.text)
                after = piece.end_byte
            if not page.has_more:
                break
        if follow:
            for piece in client.stream_logs(run_id, after or 0):
                output.print_json(asdict(piece)) if as_json else output.print_log(piece.text)
