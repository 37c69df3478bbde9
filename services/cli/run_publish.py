"""`reverie runs publish`: a run's result or a checkpoint, to a folder or to the Hub."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.run_options import RunId

if TYPE_CHECKING:
    from services.client.publication_shapes import FolderTarget, HubTarget, PublicationRequest

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
    hub_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Secret that publishes to --hub; default: your only one."
        ),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Publish a result again, or a checkpoint. `reverie runs show` tells how far it is."""
    invocation: Invocation = ctx.obj
    target = _target(hub, is_public=public, secret=hub_secret)
    request: PublicationRequest = {"run_id": run_id, "target": target}
    if checkpoint is not None:
        request["checkpoint_step"] = checkpoint
    with invocation.connect() as client:
        publication = client.create_publication(request)
    if as_json:
        output.print_json(publication)
    else:
        output.print_facts({"publication": publication["id"], "status": publication["status"]})


def _target(hub: str | None, *, is_public: bool, secret: str | None) -> "FolderTarget | HubTarget":
    if hub is not None:
        return {"kind": "hub", "repo_id": hub, "private": not is_public, "secret": secret}
    for option, is_given in (("--public", is_public), ("--hub-secret", secret is not None)):
        if is_given:
            raise typer.BadParameter(
                "it is for the Hub only: name the repository with --hub OWNER/NAME",
                param_hint=option,
            )
    return {"kind": "folder"}
