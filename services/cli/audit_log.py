"""`reverie audit`: what was done in the tenant's name and to it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation

if TYPE_CHECKING:
    from services.client.audit_shapes import AuditVerification

app = typer.Typer(no_args_is_help=True, help="The audit log of the tenant.")


@app.command("list", epilog="Example: reverie audit list --target run_…")
def list_events(
    ctx: typer.Context,
    *,
    action: Annotated[str | None, typer.Option(help="Such as run.canceled.")] = None,
    target: Annotated[str | None, typer.Option(metavar="ID", help="What it was done to.")] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="ID", help="Who did it: a key or a member.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Events a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="SEQ", help="Show the events older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show events, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_audit_events(
            limit=limit, after=after, action=action, target=target, actor=actor
        )
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            event["seq"],
            output.when(event["created_at"]),
            event["action"],
            event["target"],
            f"{event['actor']['kind']} {event['actor'].get('member_id') or event['actor']['id']}",
            event["client"],
        )
        for event in page.data
    ]
    output.print_table(("SEQ", "WHEN", "ACTION", "TARGET", "BY", "FROM"), rows)
    if page.has_more:
        output.print_note(f"more: reverie audit list --after {page.next_cursor}")


@app.command("verify")
def verify(ctx: typer.Context, as_json: output.Json = False) -> None:
    """Check that no event was changed, removed, added or put elsewhere.

    Exit status 1 names the first one that was. A removed end is found up to the last event whose
    hash was anchored in the object store, which is done once a day.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        report(lambda after: client.verify_audit_events(after=after), as_json=as_json)


def report(verify_part: Callable[[int | None], "AuditVerification"], *, as_json: bool) -> None:
    """Verify a log part by part and print what is found; raises CommandError where it is wrong.

    Args:
        verify_part: takes ``next_after`` of the part before, and None first.
    """
    found = verify_part(None)
    first = found["first_seq"]
    while found["next_after"] is not None:
        found = verify_part(found["next_after"])
    facts = {
        "is_whole": found["is_whole"],
        "first_seq": first,
        "last_seq": found["last_seq"],
        "anchored_seq": found["anchored_seq"],
        "misfit": found["misfit"],
        "losses": found["losses"],
    }
    if as_json:
        output.print_json(facts)
    misfit = found["misfit"]
    if misfit is not None:
        raise CommandError(f"the audit log is not whole: {misfit['message']}")
    if not as_json:
        shown = {"events": f"{first} to {found['last_seq']}", "anchored": found["anchored_seq"]}
        output.print_facts({**shown, "status": "whole"})
        for loss in found["losses"]:
            output.print_note(
                f"but lost with a restored backup: events {loss['first_seq']} to "
                f"{loss['last_seq']} as they were before; the operator acknowledged it in event "
                f"{loss['acknowledged_by_seq']} of {output.when(loss['acknowledged_at'])}"
            )
