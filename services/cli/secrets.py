"""`reverie secrets`: store, list and delete secrets. A value is never an argument of a command."""

import os
import sys
from dataclasses import asdict
from getpass import getpass
from typing import Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation

app = typer.Typer(no_args_is_help=True, help="Secrets, such as a token of the Hub; write-only.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
_EXAMPLES: Final = """Examples:

reverie secrets set my-hub --kind hub    (asks for the value, and does not show it)

reverie secrets set my-hub --kind hub --from-env HF_TOKEN

reverie secrets set my-hub --kind hub < token.txt"""


@app.command("set", epilog=_EXAMPLES)
def set_secret(
    ctx: typer.Context,
    name: Name,
    *,
    kind: Annotated[Literal["hub", "s3", "wandb"], typer.Option(help="What it is used for.")],
    from_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Take the value from this variable.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Store a secret, or replace its value; asks for it, or reads it from standard input.

    Nobody can read it again, only the part of the service that uses it.
    """
    invocation: Invocation = ctx.obj
    value = _value(name, from_env)
    with invocation.connect() as client:
        secret = client.put_secret(name, kind, value)
    if as_json:
        output.print_json(secret)
    else:
        output.print_facts({"secret": name, "kind": kind, "version": secret["version"]})


def _value(name: str, variable: str | None) -> str:
    if variable is not None:
        value = os.environ.get(variable, "")
        where = f"the variable {variable}"
    elif sys.stdin.isatty():
        value, where = getpass(f"value of {name}: "), "the answer"
    else:
        value, where = sys.stdin.read(), "the standard input"
    value = value.strip()
    if not value:
        raise CommandError(f"{where} is empty: give the secret's value there")
    return value


@app.command("list")
def list_secrets(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Secrets a page.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="SECRET", help="Show the secrets older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show secrets, newest first; never their values."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_secrets(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            secret["name"],
            secret["kind"],
            secret["version"],
            output.when(secret["updated_at"]),
            output.when(secret["last_used_at"]) or "-",
        )
        for secret in page.data
    ]
    output.print_table(("NAME", "KIND", "VERSION", "SET", "USED"), rows)
    for secret in page.data:
        if secret["warning"]:
            output.print_note(f"{secret['name']}: {secret['warning']}")
    if page.has_more:
        output.print_note(f"more: reverie secrets list --after {page.next_cursor}")


@app.command("delete")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a secret and its value. Publications that still need it fail."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        client.delete_secret(name)
    output.print_facts({"secret": name, "status": "deleted"})
