"""What several commands of `reverie runs` share: options, and a line that tells a run's status."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output

if TYPE_CHECKING:
    from services.client.shapes import Run

RunId = Annotated[str, typer.Argument(metavar="RUN", help="run_…")]


def print_state(run: "Run", *, as_json: bool) -> None:
    """The run and its status, after an action."""
    if as_json:
        output.print_json(run)
    else:
        output.print_facts({"run": run["id"], "status": run["status"]})
