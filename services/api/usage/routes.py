"""/v1/usage and /v1/quotas: what a tenant has used, and what it may use."""

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from services.api.paging import Limit, Page, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.usage.presenting import MONTH, month_shape, quota_shapes
from services.api.usage.shapes import MonthUsage, Quota
from services.store import monthly_usage, quotas

router = APIRouter(prefix="/v1", tags=["usage"], route_class=TenantRoute)

AfterMonth = Annotated[
    str | None,
    Query(
        pattern="^(20|21)[0-9]{2}-(0[1-9]|1[0-2])$",
        description="next_cursor of the page before: a month such as 2026-11.",
    ),
]


@router.get("/usage", openapi_extra=needs("usage:read"))
def list_usage(
    service: ServiceDep, tenant_id: TenantDep, limit: Limit = 20, after: AfterMonth = None
) -> Page[MonthUsage]:
    """Months in which GPU time was charged, newest first, each by GPU class.

    A run that trains is charged at each renewal of its worker.
    """
    with service.database.transaction(tenant_id) as conn:
        found = monthly_usage.months(conn, tenant_id, limit + 1, _first_day(after))
    return page_of(list(found.items()), limit, month_shape, lambda month: month[0].strftime(MONTH))


@router.get("/quotas", openapi_extra=needs("usage:read"))
def list_quotas(service: ServiceDep, tenant_id: TenantDep) -> Page[Quota]:
    """Every quota with its limit and what is used of it now."""
    with service.database.transaction(tenant_id) as conn:
        found = quotas.read(conn, tenant_id, service.settings.quotas)
    return Page(data=quota_shapes(found), has_more=False, next_cursor=None)


def _first_day(month: str | None) -> date | None:
    return None if month is None else datetime.strptime(month, MONTH).replace(tzinfo=UTC).date()
