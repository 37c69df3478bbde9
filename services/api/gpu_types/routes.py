"""/v1/gpu-types: where runs train, and the price list."""

from fastapi import APIRouter

from services.api.gpu_types.shapes import GpuType
from services.api.paging import Page
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.store import gpu_classes
from services.store.gpu_classes import KnownClass

router = APIRouter(prefix="/v1", tags=["runs"], route_class=TenantRoute)


@router.get("/gpu-types", openapi_extra=needs("runs:read"))
def list_gpu_types(service: ServiceDep, tenant_id: TenantDep) -> Page[GpuType]:
    """All of them, by name: those that a worker has, or that the operator named."""
    with service.database.transaction(tenant_id) as conn:
        rows = gpu_classes.known(conn, service.settings.gpu_class)
    return Page(data=[_shape(row) for row in rows], has_more=False, next_cursor=None)


def _shape(row: KnownClass) -> GpuType:
    return GpuType(
        id=row.gpu_class,
        memory_bytes=row.memory_bytes,
        capability=row.capability,
        price_micros_per_hour=row.price_micros_per_hour,
        currency=row.currency,
    )
