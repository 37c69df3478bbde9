"""What a tenant has used, and what it may use."""

from dataclasses import replace

from services.client.call import Call, get, page, page_of
from services.client.shapes import Page
from services.client.tenant_shapes import MonthUsage, Quota


def list_usage(*, limit: int = 20, after: str | None = None) -> Call[Page[MonthUsage]]:
    """Months in which GPU time was charged, newest first."""
    return page("/v1/usage", {"limit": limit, "after": after})


def list_quotas() -> Call[Page[Quota]]:
    """Every quota, with what is used of it."""
    return replace(get("/v1/quotas"), read=page_of)
