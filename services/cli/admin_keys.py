"""`reverie admin`: keys of tenants and of operators, and the members of a tenant."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import output
from services.cli.admin_database import TenantArgument, open_database, tenant_of
from services.cli.moments import Expires, expiry_of, rfc3339
from services.cli.scopes import scopes_of

if TYPE_CHECKING:
    from services.store.api_keys import ApiKey
    from services.store.operator_keys import OperatorKey

EXAMPLES: Final = """Examples:

reverie admin create-key ada --name ci --scopes runs:read,runs:write --expires 90d

reverie admin create-key ada --member mem_…"""
_MOST: Final = 1000


def create_key(
    tenant: TenantArgument,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")] = "made by the operator",
    member: Annotated[
        str | None,
        typer.Option(metavar="MEMBER", help="mem_…, for whom it acts; default: the first owner."),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="What it may do; default: all that the role has."),
    ] = None,
    expires: Expires = None,
    as_json: output.Json = False,
) -> None:
    """Create a key for a tenant. It is printed this once: the service keeps no copy."""
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.store import api_keys, audit

    with open_database() as (settings, conn):
        key, secret = api_keys.create(
            conn,
            tenant_of(conn, tenant),
            settings.key_pepper,
            name=name,
            member_id=member,
            scopes=None if scopes is None else scopes_of("--scopes", _split(scopes)),
            expires_at=expiry_of(expires),
        )
        data = {"member_id": key.member_id, "scopes": key.scopes}
        audit.record(
            conn, key.tenant_id, OPERATOR_AT_DATABASE, "key.created", key.key_id, data=data
        )
    facts = {"key": key.key_id, "secret": secret, "tenant": key.tenant_id, "member": key.member_id}
    _print_new(facts, as_json=as_json)


def create_operator_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    *,
    expires: Expires = None,
    as_json: output.Json = False,
) -> None:
    """Create a key for /v1/admin. It is printed this once: the service keeps no copy."""
    from services.store import operator_keys

    with open_database() as (settings, conn):
        key, secret = operator_keys.create(
            conn, settings.key_pepper, name=name, expires_at=expiry_of(expires)
        )
    _print_new({"key": key.key_id, "secret": secret}, as_json=as_json)


def list_keys(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="A tenant's id or name; without it: operators'."),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show the keys of a tenant, or those of the operators, newest first."""
    from services.store import api_keys, operator_keys

    with open_database() as (_, conn):
        if tenant is None:
            keys = [_facts(key) for key in operator_keys.all_keys(conn)]
        else:
            found = api_keys.list_page(conn, tenant_of(conn, tenant), _MOST)
            keys = [{**_facts(key), "member": key.member_id, "scopes": key.scopes} for key in found]
    if as_json:
        output.print_json(keys)
        return
    rows = [
        (
            key["id"],
            key["name"],
            key.get("member") or "-",
            output.when(key["last_used_at"]) or "never",
            output.when(key["expires_at"]) or "never",
            " ".join(key.get("scopes") or ["all"]),
        )
        for key in keys
    ]
    output.print_table(("ID", "NAME", "MEMBER", "LAST USED", "EXPIRES", "SCOPES"), rows)


def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="key_…, the id; not the key itself.")],
) -> None:
    """Stop a key of a tenant or of an operator, at once."""
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.store import api_keys, audit, operator_keys

    with open_database() as (_, conn):
        tenant_id = api_keys.tenant_of_id(conn, key)
        if tenant_id is None:
            operator_keys.revoke(conn, key)
        else:
            api_keys.revoke(conn, tenant_id, key)
            audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "key.revoked", key)
    output.print_facts({"key": key, "tenant": tenant_id, "status": "revoked"})


def list_members(tenant: TenantArgument, as_json: output.Json = False) -> None:
    """Show the members of a tenant, newest first."""
    from services.store import members

    with open_database() as (_, conn):
        rows = members.list_page(conn, tenant_of(conn, tenant), _MOST)
    if as_json:
        output.print_json([{"id": m.member_id, "name": m.name, "role": m.role} for m in rows])
        return
    output.print_table(
        ("ID", "ROLE", "CREATED", "NAME"),
        [(m.member_id, m.role, output.when(m.created_at.isoformat()), m.name) for m in rows],
    )


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _facts(key: "ApiKey | OperatorKey") -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "last_used_at": rfc3339(key.last_used_at),
        "expires_at": rfc3339(key.expires_at),
    }


def _print_new(facts: dict[str, str | None], *, as_json: bool) -> None:
    if as_json:
        output.print_json(facts)
        return
    output.print_facts(facts)
    output.print_note("Keep the secret now: it is not shown again.")
