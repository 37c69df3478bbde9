"""`reverie admin delete-tenant` and `show-deletion`."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import output
from services.cli.admin_database import TenantArgument, open_database, tenant_of
from services.cli.connection import CommandError

if TYPE_CHECKING:
    from services.store.deletions import Deletion

EXAMPLES: Final = """Examples:

reverie admin delete-tenant ten_… --confirm ada

reverie admin show-deletion del_…"""


def delete_tenant(
    tenant: TenantArgument,
    *,
    confirm: Annotated[str, typer.Option(metavar="NAME", help="The tenant's name.")],
    as_json: output.Json = False,
) -> None:
    """Delete everything of a tenant: runs, datasets, caches, keys, members.

    Its keys stop at once and its runs are canceled. What stays: its id with the GPU time of each
    month, the last hash of its audit log, and the report, which `show-deletion` prints. Results
    that were published to the Hub stay there; the report names them.
    """
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.domain.errors import InvalidRequestError
    from services.store import audit, deletions

    with open_database() as (_, conn):
        tenant_id = tenant_of(conn, tenant)
        try:
            deletion, is_new = deletions.delete_tenant(conn, tenant_id, name=confirm)
        except InvalidRequestError as error:
            raise CommandError(f"--confirm is {confirm}, which is not the tenant's name") from error
        if is_new:
            audit.record(
                conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.deletion_requested", tenant_id
            )
    _print(deletion, as_json=as_json)


def show_deletion(
    deletion: Annotated[str, typer.Argument(metavar="DELETION", help="del_…")],
    as_json: output.Json = False,
) -> None:
    """Show how far a deletion is, and its report; also when the tenant is gone."""
    from services.store import deletions

    with open_database() as (_, conn):
        found = deletions.get(conn, deletion, tenant_id=None)
    _print(found, as_json=as_json)


def _print(deletion: "Deletion", *, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "id": deletion.deletion_id,
        "kind": deletion.kind,
        "target": deletion.target,
        "status": deletion.status,
        "waits_for": deletion.waits_for,
        "report": deletion.report,
    }
    if as_json:
        output.print_json(facts)
    else:
        output.print_deletion(facts)
