"""/v1/tenant: whose the API key is."""

from typing import Final

from fastapi import APIRouter

from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.shapes import in_utc
from services.api.tenant.shapes import OwnTenant
from services.api.usage.presenting import quota_shapes
from services.domain.errors import NotFoundError
from services.store import quotas, tenants

router = APIRouter(prefix="/v1", tags=["usage"], route_class=TenantRoute)

_LINKS: Final = {
    "self": "/v1/tenant",
    "members": "/v1/members",
    "api_keys": "/v1/api-keys",
    "usage": "/v1/usage",
}


@router.get("/tenant", openapi_extra=needs("usage:read", NotFoundError))
def get_own_tenant(service: ServiceDep, tenant_id: TenantDep) -> OwnTenant:
    """The tenant of the API key: its name, and its quotas with what is used of them."""
    with service.database.transaction(tenant_id) as conn:
        row = tenants.get(conn, tenant_id)
        limits = quotas.read(conn, tenant_id, service.settings.quotas)
    return OwnTenant(
        id=row.tenant_id,
        name=row.name,
        quotas=quota_shapes(limits),
        links=_LINKS,
        created_at=in_utc(row.created_at),
    )
