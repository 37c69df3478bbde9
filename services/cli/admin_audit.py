"""`reverie admin audit`: audit logs of tenants, directly in the database and the object store."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from services.cli import audit_log, output
from services.cli.admin_database import TenantArgument, open_database, tenant_of
from services.cli.connection import CommandError

if TYPE_CHECKING:
    from services.client.audit_shapes import AuditVerification
    from services.domain.audit_chain import Loss
    from services.objects.port import ObjectStore
    from services.store.database import Connection

app = typer.Typer(no_args_is_help=True, help="Audit logs of tenants.")

_PAGE: Final = 100


@app.command("verify", epilog="Example: reverie admin audit verify ada")
def verify(tenant: TenantArgument, as_json: output.Json = False) -> None:
    """Check that no event of a tenant was changed, removed, added or put elsewhere.

    Does what `reverie audit verify` does, without a key of the tenant.
    """
    with _opened() as (objects, conn):
        tenant_id = tenant_of(conn, tenant)
        audit_log.report(lambda after: _part(conn, objects, tenant_id, after), as_json=as_json)


@app.command("acknowledge-restore", epilog="Example: reverie admin audit acknowledge-restore")
def acknowledge_restore(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="A tenant's id or name; all unless given."),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Record in audit logs which events went with a restored backup.

    Until then `verify` reports them as missing, and from then on as lost and acknowledged. A log in
    which something else is wrong is left as it is, and named.
    """
    losses: dict[str, Loss] = {}
    refused: dict[str, str] = {}
    for tenant_id in _tenants(tenant):
        try:
            if loss := _acknowledge(tenant_id):
                losses[tenant_id] = loss
        except _NotWholeError as error:
            refused[tenant_id] = str(error)
    if as_json:
        ranges = {
            tenant_id: {"first_seq": loss.first_seq, "last_seq": loss.last_seq}
            for tenant_id, loss in losses.items()
        }
        output.print_json({"losses": ranges, "refused": refused})
    else:
        rows = [(each, f"{loss.first_seq} to {loss.last_seq}") for each, loss in losses.items()]
        output.print_table(("TENANT", "LOST EVENTS"), rows)
    if refused:
        reasons = "; ".join(f"{each}: {reason}" for each, reason in refused.items())
        raise CommandError(f"not acknowledged, because something else is wrong: {reasons}")


class _NotWholeError(Exception):
    """Something is wrong with a log that a restored backup does not explain."""


def _acknowledge(tenant_id: str) -> "Loss | None":
    """None where nothing is lost; raises _NotWholeError."""
    from services.domain.audit import OPERATOR_AT_DATABASE
    from services.objects.audit_anchors import read_anchors
    from services.store import audit, audit_losses

    with _opened() as (objects, conn):
        service_id = audit.service_id(conn)
        anchors = [] if service_id is None else read_anchors(objects, service_id, tenant_id)
        loss = audit_losses.find(conn, tenant_id, anchors)
        if loss is None:
            return None
        audit_losses.acknowledge(conn, tenant_id, OPERATOR_AT_DATABASE, loss)
        after: int | None = None
        while True:
            found = _part(conn, objects, tenant_id, after)
            if found["misfit"] is not None:  # and nothing of this transaction is kept
                raise _NotWholeError(found["misfit"]["message"])
            after = found["next_after"]
            if after is None:
                return loss


def _part(
    conn: "Connection", objects: "ObjectStore", tenant_id: str, after: int | None
) -> "AuditVerification":
    from services.api.audit_log.checking import verify_part

    found = verify_part(lambda: contextlib.nullcontext(conn), objects, tenant_id, after)
    return cast("AuditVerification", found.model_dump(mode="json"))


def _tenants(tenant: str | None) -> Iterator[str]:
    """The ids of one tenant, or of all."""
    from services.store import tenants

    if tenant is not None:
        with open_database() as (_, conn):
            found = [tenant_of(conn, tenant)]
        yield from found
        return
    after: str | None = None
    while True:
        with open_database() as (_, conn):
            page = [row.tenant_id for row in tenants.list_page(conn, _PAGE, after)]
        yield from page
        if not page:
            return
        after = page[-1]


@contextlib.contextmanager
def _opened() -> Iterator[tuple["ObjectStore", "Connection"]]:
    """The object store, and a transaction; raises CommandError where one does not answer."""
    from services.objects.errors import ObjectStoreError
    from services.objects.open import open_store

    with open_database() as (settings, conn):
        try:
            yield open_store(settings), conn
        except ObjectStoreError as error:
            raise CommandError(
                f"the object store of REVERIE_OBJECTS_URL does not answer ({error}): start it and "
                "try again"
            ) from error
