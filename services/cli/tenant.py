"""`reverie tenant`: the tenant that the key belongs to, as a whole."""

from typing import Annotated, Final

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.cli.usage import print_quotas

app = typer.Typer(no_args_is_help=True, help="Your tenant as a whole.")

_EXAMPLES: Final = """Examples:

reverie tenant delete    (asks for the tenant's name)

reverie tenant delete ada --yes"""


@app.command("show")
def show(
    ctx: typer.Context,
    as_json: output.Json = False,
) -> None:
    """Show the tenant of the API key, and its quotas with what is used of them."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        tenant = client.get_own_tenant()
    if as_json:
        output.print_json(tenant)
        return
    created = output.when(tenant["created_at"])
    output.print_facts({"tenant": tenant["id"], "name": tenant["name"], "created": created})
    print_quotas(tenant["quotas"])


@app.command("delete", epilog=_EXAMPLES)
def delete(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The tenant's name; asked for.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; NAME has to be given.")] = False,
    as_json: output.Json = False,
) -> None:
    """Delete everything of the tenant: runs, datasets, caches, secrets, keys, members.

    Its keys stop with the answer, this one too, and runs are canceled. The operator has the report.
    What was published to the Hub stays there.
    """
    if not yes:
        asked = typer.prompt("Everything of the tenant is deleted. Its name", err=True)
        if name not in (None, asked):
            raise CommandError(f"{asked} is not {name}: nothing was deleted")
        name = asked
    if name is None:
        raise CommandError("--yes needs the tenant's name: reverie tenant delete NAME --yes")
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        deletion = client.delete_tenant(name)
    if as_json:
        output.print_json(deletion)
    else:
        output.print_deletion(deletion)
