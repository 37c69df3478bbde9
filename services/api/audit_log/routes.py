"""/v1/audit-events: what was done in the tenant's name and to it, and whether that is all."""

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field

from services.api.audit_log.checking import verify_part
from services.api.audit_log.shapes import AuditEvent, AuditVerification
from services.api.paging import DIGITS, Limit, Page, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import in_utc
from services.domain.audit import AuditEvent as AuditEventRow
from services.store import audit

router = APIRouter(prefix="/v1", tags=["audit log"], route_class=TenantRoute)

Seq = Annotated[int, Field(ge=1, lt=2**63), DIGITS]
AfterSeq = Annotated[Seq | None, Query(description="next_cursor: a seq.")]
NextAfter = Annotated[Seq | None, Query(description="next_after of the part before.")]
_NAME: Final = "^[A-Za-z0-9._-]{1,200}$"
Action = Annotated[str | None, Query(pattern=_NAME, description="Such as run.created.")]
Target = Annotated[str | None, Query(pattern=_NAME, description="The id of what was changed.")]
ActorId = Annotated[str | None, Query(pattern=_NAME, description="A key or a member.")]


@router.get("/audit-events", openapi_extra=needs("audit:read"))
def list_audit_events(
    service: ServiceDep,
    tenant_id: TenantDep,
    *,
    limit: Limit = 20,
    after: AfterSeq = None,
    action: Action = None,
    target: Target = None,
    actor: ActorId = None,
) -> Page[AuditEvent]:
    """Newest first; of one action, target or actor (a key or a member) where they are given."""
    with service.database.transaction(tenant_id) as conn:
        rows = audit.list_page(
            conn, tenant_id, limit + 1, after, action=action, target=target, actor=actor
        )
    return page_of(rows, limit, _shape, lambda row: str(row.seq))


@router.get("/audit-events:verify", openapi_extra=needs("audit:read"))
def verify_audit_events(
    service: ServiceDep,
    tenant_id: TenantDep,
    after: NextAfter = None,
) -> AuditVerification:
    """Check the hashes of a part of the chain, oldest first, and its anchors.

    ``misfit`` is the first event that was changed, removed, added or put elsewhere. ``losses`` are
    the events that went with a restored backup, where an operator acknowledged it.
    """
    return verify_part(
        lambda: service.database.transaction(tenant_id), service.objects, tenant_id, after
    )


def _shape(row: AuditEventRow) -> AuditEvent:
    return AuditEvent(
        seq=row.seq,
        tenant_id=row.tenant_id,
        created_at=in_utc(row.created_at),
        actor=row.actor,
        action=row.action,
        target=row.target,
        client=row.client,
        data=row.data,
        hash_before=row.hash_before,
        hash=row.hash,
    )
