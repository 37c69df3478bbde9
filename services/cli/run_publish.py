"""`reverie runs publish`: a run's result or a checkpoint, to a folder or to the Hub."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.run_options import Json, RunId

if TYPE_CHECKING:
    from services.client.publication_shapes import PublicationRequest

EXAMPLES: Final = """Examples:

reverie runs publish run_… --hub ada/moon

reverie runs publish run_… --checkpoint 500"""


def publish(
    ctx: typer.Context,
    run_id: RunId,
    *,
    checkpoint: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="STEP", help="The adapter of this checkpoint, not of the result."
        ),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="A repository of the Hugging Face Hub; without it, a folder of the service.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everyone may read a repository that is made new.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a result again, or a checkpoint. `reverie runs show` tells how far it is."""
    invocation: Invocation = ctx.obj
    request: PublicationRequest = {"run_id": run_id, "target": {"kind": "folder"}}
    if hub is not None:
        request["target"] = {"kind": "hub", "repo_id": hub, "private": not public}
    if checkpoint is not None:
        request["checkpoint_step"] = checkpoint
    with invocation.connect() as client:
        publication = client.create_publication(request)
    if as_json:
        output.print_json(publication)
    else:
        output.print_facts({"publication": publication["id"], "status": publication["status"]})
