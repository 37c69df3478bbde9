"""`reverie members`: who acts for the tenant, and in which role."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.domain.access import Role

if TYPE_CHECKING:
    from services.client.tenant_shapes import Member, MemberChanges

app = typer.Typer(no_args_is_help=True, help="Members of the tenant, and their roles.")

MemberId = Annotated[str, typer.Argument(metavar="MEMBER", help="mem_…")]
RoleOption = Annotated[
    Role,
    typer.Option(
        help="owner: everything; member: runs, datasets and its own keys; viewer: reads; "
        "billing: reads usage and runs."
    ),
]


@app.command("list")
def list_members(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Members a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="MEMBER", help="Show the members older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show members, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_members(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [(m["id"], m["role"], output.when(m["created_at"]), m["name"]) for m in page.data]
    output.print_table(("ID", "ROLE", "CREATED", "NAME"), rows)
    if page.has_more:
        output.print_note(f"more: reverie members list --after {page.next_cursor}")


@app.command("create", epilog="Example: reverie members create bob --role viewer")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    *,
    role: RoleOption = "member",
    as_json: output.Json = False,
) -> None:
    """Add a member; `reverie keys create --member` makes its first key."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.create_member(name, role), as_json=as_json)


@app.command("change", epilog="Example: reverie members change mem_… --role owner")
def change(
    ctx: typer.Context,
    member: MemberId,
    *,
    role: Annotated[Role | None, typer.Option(help="The new role.")] = None,
    name: Annotated[str | None, typer.Option(help="The new name.")] = None,
    as_json: output.Json = False,
) -> None:
    """Change name or role. What its keys may do follows at once."""
    changes: MemberChanges = {}
    if role is not None:
        changes["role"] = role
    if name is not None:
        changes["name"] = name
    if not changes:
        raise CommandError("nothing is to change: give --role or --name")
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.change_member(member, changes), as_json=as_json)


@app.command("remove", epilog="Example: reverie members remove mem_…")
def remove(ctx: typer.Context, member: MemberId) -> None:
    """Remove a member and revoke its keys, at once."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        client.remove_member(member)
    output.print_facts({"member": member, "status": "removed"})


def _print(member: "Member", *, as_json: bool) -> None:
    if as_json:
        output.print_json(member)
        return
    output.print_facts({"member": member["id"], "name": member["name"], "role": member["role"]})
