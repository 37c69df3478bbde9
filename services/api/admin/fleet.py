"""/v1/admin/gpu-classes and /v1/admin/workers."""

from typing import Annotated

from fastapi import APIRouter, Path

from services.api.admin.presenting import gpu_class_shape, worker_shape
from services.api.admin.shapes import GpuClass, PriceRequest, Worker
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import OperatorRoute
from services.api.scopes import ADMIN, needs_operator
from services.api.service import ServiceDep
from services.api.shapes import WorkerId
from services.store import gpu_classes, worker_rows

router = APIRouter(prefix=ADMIN, tags=["operators"], route_class=OperatorRoute)

ClassName = Annotated[
    str,
    Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Workers tell theirs."),
]


@router.get("/gpu-classes", openapi_extra=needs_operator())
def list_gpu_classes(service: ServiceDep) -> Page[GpuClass]:
    """The classes that operators set, by name."""
    with service.unscoped.transaction() as conn:
        rows = gpu_classes.all_classes(conn)
    return Page(data=[gpu_class_shape(row) for row in rows], has_more=False, next_cursor=None)


@router.put("/gpu-classes/{gpu_class}", openapi_extra=needs_operator())
def set_price(gpu_class: ClassName, body: PriceRequest, service: ServiceDep) -> GpuClass:
    """Set the price for attempts that start from now on, and what a worker of the class has.

    Training and sampling are charged. Memory and capability are for estimates.
    """
    with service.unscoped.transaction() as conn:
        gpu_classes.set_price(
            conn,
            gpu_class,
            price_micros_per_hour=body.price_micros_per_hour,
            currency=body.currency,
        )
        gpu_classes.set_hardware(
            conn, gpu_class, memory_bytes=body.memory_bytes, capability=body.capability
        )
        rows = gpu_classes.all_classes(conn)
    return next(gpu_class_shape(row) for row in rows if row.gpu_class == gpu_class)


@router.get("/workers", openapi_extra=needs_operator())
def list_workers(
    service: ServiceDep, limit: Limit = 20, after: After[WorkerId] = None
) -> Page[Worker]:
    """Newest first; also those that were silent for less than a day."""
    cursor = check_cursor(after, "wrk")
    with service.unscoped.transaction() as conn:
        rows = worker_rows.list_page(conn, limit + 1, cursor)
    return page_of(rows, limit, worker_shape, lambda row: row.worker_id)
