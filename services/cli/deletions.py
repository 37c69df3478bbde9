"""`reverie runs delete`, `reverie datasets delete` and `reverie deletion`."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.connection import Invocation

if TYPE_CHECKING:
    from services.client.tenant_shapes import Deletion


def delete_run(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="run_…")],
    as_json: output.Json = False,
) -> None:
    """Delete a run that is over: its checkpoints, samples, result, events and logs.

    What was cached for it goes where no other run needs it. It is gone at once; its data follow,
    and `reverie deletion` shows how far that is.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.delete_run(run), as_json=as_json)


def delete_dataset(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="ds_…")],
    as_json: output.Json = False,
) -> None:
    """Delete a dataset that no open run needs, with what was cached of it.

    Files that another dataset lists, too, stay.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.delete_dataset(dataset), as_json=as_json)


def show_deletion(
    ctx: typer.Context,
    deletion: Annotated[str, typer.Argument(metavar="DELETION", help="del_…")],
    as_json: output.Json = False,
) -> None:
    """Show how far a deletion is, and what went."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.get_deletion(deletion), as_json=as_json)


def _print(deletion: "Deletion", *, as_json: bool) -> None:
    if as_json:
        output.print_json(deletion)
    else:
        output.print_deletion(deletion)
