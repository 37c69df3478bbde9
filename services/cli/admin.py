"""`reverie admin`: what only the operator may do, directly in the service's database."""

import math
import re
from typing import Annotated, Final

import typer

from services.cli import (
    admin_audit,
    admin_deletions,
    admin_keys,
    admin_worker_keys,
    output,
    restore,
    secrets_keys,
)
from services.cli.admin_database import TenantArgument, open_database, tenant_of
from services.cli.connection import CommandError

app = typer.Typer(
    no_args_is_help=True,
    help="For the operator: works on the service's database (REVERIE_DATABASE_URL).",
)
quota = typer.Typer(no_args_is_help=True, help="How much of the service each tenant may use.")
app.add_typer(quota, name="quota")
gpu_class = typer.Typer(no_args_is_help=True, help="Classes of GPUs that workers have.")
app.add_typer(gpu_class, name="gpu-class")
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants of the service.")
app.add_typer(tenant_app, name="tenant")
app.add_typer(admin_audit.app, name="audit")
app.add_typer(admin_worker_keys.app, name="worker-keys")
app.command("restore", epilog=restore.EXAMPLE)(restore.restore)
app.command("create-key", epilog=admin_keys.EXAMPLES)(admin_keys.create_key)
app.command("create-operator-key")(admin_keys.create_operator_key)
app.command("list-keys")(admin_keys.list_keys)
app.command("revoke-key")(admin_keys.revoke_key)
app.command("delete-tenant", epilog=admin_deletions.EXAMPLES)(admin_deletions.delete_tenant)
app.command("show-deletion")(admin_deletions.show_deletion)
app.command("list-members")(admin_keys.list_members)
app.command("new-secrets-key", epilog=secrets_keys.NEW_EXAMPLE)(secrets_keys.new_secrets_key)
app.command("rotate-secrets", epilog=secrets_keys.ROTATE_EXAMPLE)(secrets_keys.rotate_secrets)

_EXAMPLES: Final = """Examples:

reverie admin quota set ada --concurrent-runs 4 --gpu-hours 200

reverie admin quota set ada --storage 50GB --uploads none"""
_UNITS: Final[dict[str, int]] = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


@quota.command("show", epilog="Example: reverie admin quota show ada")
def show(tenant: TenantArgument, as_json: output.Json = False) -> None:
    """Show what a tenant uses of each quota, and its limit.

    Where queued_runs, uploads or storage_bytes is used up, requests that need more are refused.
    Where concurrent_runs or gpu_hours is used up, runs wait in the queue.
    """
    from services.store import quotas

    with open_database() as (settings, conn):
        found = quotas.read(conn, tenant_of(conn, tenant), settings.quotas)
    if as_json:
        facts = {
            name: {"used": each.used, "limit": each.limit, "is_default": each.is_default}
            for name, each in found.items()
        }
        output.print_json(facts)
        return
    rows = [
        (
            name,
            "" if each.used is None else output.amount(name, each.used),
            output.amount(name, each.limit),
            "the default" if each.is_default else "set",
        )
        for name, each in found.items()
    ]
    output.print_table(("QUOTA", "USED", "LIMIT", "LIMIT IS"), rows)


@quota.command("set", epilog=_EXAMPLES)
def change(
    tenant: TenantArgument,
    *,
    queued_runs: Annotated[
        str | None, typer.Option(metavar="N|none", help="Runs that are not over.")
    ] = None,
    concurrent_runs: Annotated[
        str | None, typer.Option(metavar="N|none", help="Runs that workers hold at once.")
    ] = None,
    gpu_hours: Annotated[
        str | None, typer.Option(metavar="H|none", help="Charged in a calendar month (UTC).")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="SIZE|none", help="Datasets, checkpoints and results: 50GB, 2TiB."),
    ] = None,
    uploads: Annotated[
        str | None, typer.Option(metavar="N|none", help="Datasets that are still being uploaded.")
    ] = None,
    requests_per_minute: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="Requests that create something; 0 refuses all."),
    ] = None,
) -> None:
    """Set limits of a tenant, from now on; `none` brings the service's default back.

    Limits that are not named stay as they are. The defaults are the settings REVERIE_QUOTA_….
    Nothing that a tenant has already is taken away, but a run that trains stops with a checkpoint
    and waits where gpu_hours is below what is used.
    """
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.store import audit, quotas

    given = (
        ("queued_runs", "--queued-runs", queued_runs, _count),
        ("concurrent_runs", "--concurrent-runs", concurrent_runs, _count),
        ("gpu_hours", "--gpu-hours", gpu_hours, _hours),
        ("storage_bytes", "--storage", storage, _bytes),
        ("uploads", "--uploads", uploads, _count),
        ("requests_per_minute", "--requests-per-minute", requests_per_minute, _count),
    )
    limits = {
        name: None if text == "none" else parse(option, text)
        for name, option, text, parse in given
        if text is not None
    }
    if not limits:
        raise CommandError("no limit is named: give at least one, such as --queued-runs 100")
    with open_database() as (_, conn):
        tenant_id = tenant_of(conn, tenant)
        quotas.change(conn, tenant_id, limits)
        data = {"changed": [f"quotas.{name}" for name in limits]}
        audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.changed", tenant_id, data=data)
    show(tenant)


@gpu_class.command("set", epilog="Example: reverie admin gpu-class set h200 --price 3.50")
def set_price(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in REVERIE_GPU_CLASS.")],
    *,
    price: Annotated[float, typer.Option(min=0, max=1e6, help="Of one GPU for an hour.")],
    currency: Annotated[str, typer.Option(metavar="CODE", help="ISO 4217.")] = "USD",
    memory_gib: Annotated[
        float | None, typer.Option(min=0.1, max=1e6, help="Memory of one GPU, for estimates.")
    ] = None,
    capability: Annotated[
        str | None, typer.Option(metavar="N.N", help="Its compute capability, such as 9.0.")
    ] = None,
) -> None:
    """Set the price of a class's GPU time, for attempts that start from now on.

    Training and sampling are charged, by the second. Memory and capability let the service tell
    whether a run fits; without them, or with those given before, it says what is not known.
    """
    from services.store import gpu_classes

    if not re.fullmatch("[A-Z]{3}", currency):
        raise CommandError(f"--currency is {currency}; it has to be three letters such as USD")
    if capability is not None and not re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability):
        raise CommandError(f"--capability is {capability}; it has to be a number such as 9.0")
    with open_database() as (_, conn):
        gpu_classes.set_price(
            conn, name, price_micros_per_hour=round(price * 1e6), currency=currency
        )
        gpu_classes.set_hardware(
            conn,
            name,
            memory_bytes=None if memory_gib is None else round(memory_gib * 2**30),
            capability=capability,
        )
    output.print_facts({"gpu_class": name, "price": f"{price:g} {currency} an hour"})


@tenant_app.command("create", epilog="Example: reverie admin tenant create ada")
def create_tenant(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Create a tenant with one owner; `reverie admin create-key` makes the owner's first key."""
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.store import audit, tenants

    with open_database() as (_, conn):
        tenant_id = tenants.create_tenant(conn, name)
        audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.created", tenant_id)
    output.print_facts({"tenant": tenant_id, "name": name})


@tenant_app.command("weight", epilog="Example: reverie admin tenant weight ada 2")
def set_weight(
    tenant: TenantArgument,
    weight: Annotated[float, typer.Argument(metavar="W", min=0.001, max=1000)],
) -> None:
    """Set a tenant's share: weight 2 gets twice the GPU time of weight 1 while both have runs."""
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.store import audit, tenants

    with open_database() as (_, conn):
        tenant_id = tenant_of(conn, tenant)
        tenants.set_weight(conn, tenant_id, weight)
        data = {"changed": ["weight"]}
        audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.changed", tenant_id, data=data)
    output.print_facts({"tenant": tenant_id, "weight": f"{weight:g}"})


def _count(option: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise CommandError(f"{option} is {text}; it has to be a whole number, or none")
    return int(text)


def _hours(option: str, text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours < math.inf:
        raise CommandError(f"{option} is {text}; it has to be a number of hours, or none")
    return hours


def _bytes(option: str, text: str) -> int:
    parts = _SIZE.fullmatch(text)
    if parts is None or parts[2] not in _UNITS:
        raise CommandError(f"{option} is {text}; it has to be a size such as 50GB or 2TiB, or none")
    return round(float(parts[1]) * _UNITS[parts[2]])
