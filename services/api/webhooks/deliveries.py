"""/v1/webhooks/{webhook_id}/deliveries: what was sent and answered; test and replay."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from services.api.auditing import AuthorDep
from services.api.idempotency import CreatingDep, create_once
from services.api.paging import After, Limit, Page, check_cursor, page_of
from services.api.routing import TenantRoute
from services.api.scopes import needs
from services.api.service import ServiceDep, TenantDep
from services.api.webhooks.lookup import CheckedDeliveryId, CheckedWebhookId, lock_enabled
from services.api.webhooks.presenting import delivery_shape
from services.api.webhooks.shapes import Delivery, DeliveryId, DeliveryStatus
from services.domain.errors import NotFoundError, WebhookDisabledError
from services.store import audit, webhook_deliveries, webhooks
from services.store.database import Connection

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=TenantRoute)


@router.post(
    "/webhooks/{webhook_id}:test",
    status_code=201,
    response_model=Delivery,
    openapi_extra=needs("webhooks:write", NotFoundError, WebhookDisabledError),
)
def test_webhook(
    webhook_id: CheckedWebhookId, tenant_id: TenantDep, author: AuthorDep, request: CreatingDep
) -> JSONResponse:
    """Send the event ``webhook.test``: 201 and its delivery, which shows the answer soon.

    409 ``webhook_disabled``: enable it first.
    """

    def insert(conn: Connection, _: None) -> Delivery:
        row = webhook_deliveries.test(conn, lock_enabled(conn, tenant_id, webhook_id))
        data = {"delivery": row.delivery_id}
        audit.record(conn, tenant_id, author, "webhook.tested", webhook_id, data=data)
        return delivery_shape(row)

    collection = f"/v1/webhooks/{webhook_id}/deliveries"
    return create_once(request, lambda: None, insert, collection=collection)


@router.get(
    "/webhooks/{webhook_id}/deliveries", openapi_extra=needs("webhooks:read", NotFoundError)
)
def list_deliveries(
    webhook_id: CheckedWebhookId,
    *,
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Limit = 20,
    after: After[DeliveryId] = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only those of it.")] = None,
) -> Page[Delivery]:
    """Newest first. They are kept for 30 days."""
    cursor = check_cursor(after, "whd")
    with service.database.transaction(tenant_id) as conn:
        webhooks.get(conn, tenant_id, webhook_id)
        rows = webhook_deliveries.list_page(
            conn, tenant_id, webhook_id, limit + 1, cursor, status=status
        )
    return page_of(rows, limit, delivery_shape, lambda row: row.delivery_id)


@router.get(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}",
    openapi_extra=needs("webhooks:read", NotFoundError),
)
def get_delivery(
    webhook_id: CheckedWebhookId,
    delivery_id: CheckedDeliveryId,
    service: ServiceDep,
    tenant_id: TenantDep,
) -> Delivery:
    """What is sent, what was answered last, and when it is tried again."""
    with service.database.transaction(tenant_id) as conn:
        webhooks.get(conn, tenant_id, webhook_id)
        return delivery_shape(webhook_deliveries.get(conn, tenant_id, webhook_id, delivery_id))


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}:replay",
    status_code=202,
    openapi_extra=needs("webhooks:write", NotFoundError, WebhookDisabledError),
)
def replay_delivery(
    webhook_id: CheckedWebhookId,
    delivery_id: CheckedDeliveryId,
    service: ServiceDep,
    tenant_id: TenantDep,
    author: AuthorDep,
) -> Delivery:
    """202: the event is sent again, with the same id, and retried as at first.

    409 ``webhook_disabled``: enable the webhook first.
    """
    with service.database.transaction(tenant_id) as conn:
        lock_enabled(conn, tenant_id, webhook_id)
        row = webhook_deliveries.replay(conn, tenant_id, webhook_id, delivery_id)
        data = {"delivery": delivery_id}
        audit.record(conn, tenant_id, author, "webhook.replayed", webhook_id, data=data)
        return delivery_shape(row)
