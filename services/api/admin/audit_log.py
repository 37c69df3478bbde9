"""/v1/admin/tenants/{tenant_id}/audit-events:verify: whether a tenant's audit log is whole."""

from fastapi import APIRouter

from services.api.admin.tenants import find_tenant
from services.api.audit_log.checking import verify_part
from services.api.audit_log.routes import NextAfter
from services.api.audit_log.shapes import AuditVerification
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import ServiceDep
from services.api.shapes import TenantId
from services.domain.errors import NotFoundError

router = APIRouter(prefix=ADMIN, tags=["operators"], route_class=OperatorRoute)


@router.get("/tenants/{tenant_id}/audit-events:verify", openapi_extra=needs_operator(NotFoundError))
def operator_verify_audit_events(
    tenant_id: TenantId, service: ServiceDep, after: NextAfter = None
) -> AuditVerification:
    """Check a part of the tenant's audit log, as its owner may; the events are not shown."""
    with service.unscoped.transaction() as conn:
        find_tenant(conn, tenant_id)
    return verify_part(service.unscoped.transaction, service.objects, tenant_id, after)
