"""`reverie webhooks`: addresses that the service tells of events."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.cli.moments import span_of
from services.client.webhook_shapes import DeliveryStatus

if TYPE_CHECKING:
    from services.client.webhook_shapes import (
        Delivery,
        NewWebhook,
        Webhook,
        WebhookPatch,
    )
    from services.domain.webhooks import EventType

app = typer.Typer(no_args_is_help=True, help="Webhooks: addresses that are told of events.")

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="wh_…")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="Such as run.succeeded. Repeatable. Default: all."),
]
_CREATE_EXAMPLES: Final = """Examples:

reverie webhooks create https://example.com/reverie

reverie webhooks create https://example.com/reverie --event run.succeeded --event run.failed"""
_CHANGE_EXAMPLES: Final = """Examples:

reverie webhooks change wh_… --url https://example.com/other

reverie webhooks change wh_… --enable"""


@app.command("create", epilog=_CREATE_EXAMPLES)
def create(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…")],
    *,
    event: Events = None,
    as_json: output.Json = False,
) -> None:
    """Create a webhook. Its secret is printed this once: nobody can read it again."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        new = client.create_webhook({"url": url, "events": _types(event)})
    _print_new(new, as_json=as_json)


@app.command("list")
def list_webhooks(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Webhooks a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="WEBHOOK", help="Show the webhooks older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show webhooks, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_webhooks(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [(w["id"], _state(w), " ".join(w["events"] or ["all"]), w["url"]) for w in page.data]
    output.print_table(("ID", "STATE", "EVENTS", "URL"), rows)
    if page.has_more:
        output.print_note(f"more: reverie webhooks list --after {page.next_cursor}")


@app.command("show")
def show(ctx: typer.Context, webhook: WebhookId, *, as_json: output.Json = False) -> None:
    """Show a webhook, and whether it works."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.get_webhook(webhook), as_json=as_json)


@app.command("change", epilog=_CHANGE_EXAMPLES)
def change(
    ctx: typer.Context,
    webhook: WebhookId,
    *,
    url: Annotated[str | None, typer.Option(help="The new address.")] = None,
    event: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Send all of them.")] = False,
    enable: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Send again what waits, or send nothing."),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Change address or events, or enable or disable a webhook."""
    if event and all_events:
        raise CommandError("give --event or --all-events, not both")
    changes: WebhookPatch = {}
    if url is not None:
        changes["url"] = url
    if event or all_events:
        changes["events"] = _types(event)
    if enable is not None:
        changes["enabled"] = enable
    if not changes:
        raise CommandError("nothing is to change: give --url, --event, --enable or --disable")
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print(client.change_webhook(webhook, changes), as_json=as_json)


@app.command("delete")
def delete(ctx: typer.Context, webhook: WebhookId) -> None:
    """Send nothing more to a webhook, and forget it."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        client.delete_webhook(webhook)
    output.print_facts({"webhook": webhook, "status": "deleted"})


@app.command("rotate-secret", epilog="Example: reverie webhooks rotate-secret wh_… --grace 1h")
def rotate_secret(
    ctx: typer.Context,
    webhook: WebhookId,
    *,
    grace: Annotated[
        str, typer.Option(metavar="SPAN", help="How long the old secret signs, too.")
    ] = "1d",
    as_json: output.Json = False,
) -> None:
    """Create a new signing secret. It is printed this once."""
    grace_s = round(span_of("--grace", grace).total_seconds())
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        new = client.rotate_webhook_secret(webhook, grace_s=grace_s)
    _print_new(new, as_json=as_json)


@app.command("test")
def send_test(ctx: typer.Context, webhook: WebhookId, *, as_json: output.Json = False) -> None:
    """Send the event webhook.test; `reverie webhooks deliveries` shows the answer."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print_delivery(client.test_webhook(webhook), as_json=as_json)


@app.command("deliveries")
def deliveries(
    ctx: typer.Context,
    webhook: WebhookId,
    *,
    status: Annotated[
        DeliveryStatus | None, typer.Option(help="Only those of this status.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Deliveries a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="DELIVERY", help="Show those older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show what was sent to a webhook and what it answered, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_deliveries(webhook, status=status, limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            each["id"],
            each["type"],
            each["status"],
            each["attempts"],
            _answer(each),
            output.when(each["next_attempt_at"]) or "-",
        )
        for each in page.data
    ]
    output.print_table(("ID", "EVENT", "STATUS", "TRIES", "ANSWER", "NEXT TRY"), rows)
    if page.has_more:
        output.print_note(f"more: reverie webhooks deliveries {webhook} --after {page.next_cursor}")


@app.command("replay", epilog="Example: reverie webhooks replay wh_… whd_…")
def replay(
    ctx: typer.Context,
    webhook: WebhookId,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="whd_…")],
    *,
    as_json: output.Json = False,
) -> None:
    """Send an event again, with the same id."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        _print_delivery(client.replay_delivery(webhook, delivery), as_json=as_json)


def _types(event: list[str] | None) -> "list[EventType] | None":
    """What the service checks."""
    return cast("list[EventType]", event) if event else None


def _state(webhook: "Webhook") -> str:
    if not webhook["enabled"]:
        return f"disabled ({webhook['disabled_reason']})"
    return "failing" if webhook["first_failed_at"] else "enabled"


def _answer(delivery: "Delivery") -> str:
    return str(delivery["status_code"] or delivery["error"] or "-")


def _print(webhook: "Webhook", *, as_json: bool) -> None:
    if as_json:
        output.print_json(webhook)
        return
    output.print_facts(
        {
            "webhook": webhook["id"],
            "url": webhook["url"],
            "events": " ".join(webhook["events"] or ["all"]),
            "state": _state(webhook),
            "failing since": output.when(webhook["first_failed_at"]),
            "old secret until": output.when(webhook["old_secret_expires_at"]),
        }
    )


def _print_new(webhook: "NewWebhook", *, as_json: bool) -> None:
    if as_json:
        output.print_json(webhook)
        return
    facts = {"webhook": webhook["id"], "url": webhook["url"], "secret": webhook["secret"]}
    output.print_facts(facts)
    if webhook["secret"] is None:
        output.print_note(
            "The first answer was lost, and the secret with it: "
            f"reverie webhooks rotate-secret {webhook['id']}"
        )


def _print_delivery(delivery: "Delivery", *, as_json: bool) -> None:
    if as_json:
        output.print_json(delivery)
        return
    output.print_facts(
        {
            "delivery": delivery["id"],
            "event": delivery["type"],
            "status": delivery["status"],
            "next try": output.when(delivery["next_attempt_at"]),
        }
    )
