"""`reverie runs list`: runs by batch, status, metadata and time."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.client.shapes import RunStatus

EXAMPLE: Final = "Example: reverie runs list --status failed --metadata team=blue"


def list_runs(
    ctx: typer.Context,
    *,
    batch: Annotated[
        str | None, typer.Option(metavar="BATCH", help="Only the runs of this batch.")
    ] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only those of this status.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only those with this pair. Repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Runs a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="RUN", help="Show the runs older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show runs, newest first."""
    pairs = dict(_pair(each) for each in metadata or ())
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_runs(
            batch_id=batch,
            status=status,
            metadata=pairs,
            limit=limit,
            after=after,
        )
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            run["id"],
            run["status"],
            run["stage"] or "-",
            output.of_steps(run["step"], run["max_steps"]),
            output.when(run["created_at"]),
        )
        for run in page.data
    ]
    output.print_table(("ID", "STATUS", "STAGE", "STEP", "CREATED"), rows)
    if page.has_more:
        output.print_note(f"more: the same command with --after {page.next_cursor}")


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise CommandError(f"--metadata takes KEY=VALUE, not {text}")
    return name, value
