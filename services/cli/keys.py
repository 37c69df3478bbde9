"""`reverie keys`: a tenant's API keys."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.moments import Expires, expiry_of, rfc3339, span_of
from services.cli.scopes import scopes_of

if TYPE_CHECKING:
    from services.client.tenant_shapes import ApiKey, ApiKeyRequest, NewApiKey

app = typer.Typer(no_args_is_help=True, help="API keys: list, create, rotate, revoke.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="key_…, the id; not the key itself.")]
_CREATE_EXAMPLES: Final = """Examples:

reverie keys create ci --scope runs:read --scope runs:write --expires 90d

reverie keys create laptop --member mem_…"""


@app.command("list")
def list_keys(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Keys a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="KEY", help="Show the keys older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show keys, newest first: your own, or as an owner those of all members."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_keys(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    output.print_table(COLUMNS, [row_of(key) for key in page.data])
    if page.has_more:
        output.print_note(f"more: reverie keys list --after {page.next_cursor}")


@app.command("create", epilog=_CREATE_EXAMPLES)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do, such as runs:read. Repeatable. Default: all you may."),
    ] = None,
    member: Annotated[
        str | None, typer.Option(metavar="MEMBER", help="mem_…, for whom it acts; default: you.")
    ] = None,
    expires: Expires = None,
    as_json: output.Json = False,
) -> None:
    """Create a key. It is printed this once: the service keeps no copy."""
    request: ApiKeyRequest = {
        "name": name,
        "member_id": member,
        "scopes": scopes_of("--scope", scope) if scope else None,
        "expires_at": rfc3339(expiry_of(expires)),
    }
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print_new(client.create_key(request), as_json=as_json)


@app.command("rotate", epilog="Example: reverie keys rotate key_… --grace 1h")
def rotate(
    ctx: typer.Context,
    key: Key,
    *,
    grace: Annotated[
        str, typer.Option(metavar="SPAN", help="How long the old key works beside the new one.")
    ] = "1d",
    expires: Expires = None,
    as_json: output.Json = False,
) -> None:
    """Create a key in the place of another. It is printed this once."""
    grace_s = round(span_of("--grace", grace).total_seconds())
    expires_at = rfc3339(expiry_of(expires))
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        new = client.rotate_key(key, grace_s=grace_s, expires_at=expires_at)
    _print_new(new, as_json=as_json)


@app.command("revoke", epilog="Example: reverie keys revoke key_…")
def revoke(ctx: typer.Context, key: Key) -> None:
    """Stop a key at once."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        client.revoke_key(key)
    output.print_facts({"key": key, "status": "revoked"})


COLUMNS: Final = ("ID", "NAME", "MEMBER", "LAST USED", "EXPIRES", "SCOPES")


def row_of(key: "ApiKey") -> tuple[str, ...]:
    """One line of a list of keys."""
    replaced = f" (replaced by {key['replaced_by']})" if key["replaced_by"] else ""
    return (
        key["id"],
        key["name"],
        key["member_id"] or "-",
        output.when(key["last_used_at"]) or "never",
        (output.when(key["expires_at"]) or "never") + replaced,
        " ".join(key["scopes"]) if key["scopes"] is not None else "all of its role",
    )


def _print_new(key: "NewApiKey", *, as_json: bool) -> None:
    if as_json:
        output.print_json(key)
        return
    output.print_facts(
        {
            "key": key["id"],
            "secret": key["secret"],
            "member": key["member_id"],
            "scopes": None if key["scopes"] is None else " ".join(key["scopes"]),
            "expires": output.when(key["expires_at"]),
        }
    )
    if key["secret"] is None:
        output.print_note(
            f"The first answer was lost, and the key with it: reverie keys rotate {key['id']}"
        )
    else:
        output.print_note("Keep the secret now: it is not shown again.")
