"""Rows of webhooks and deliveries as the shapes that tenants see."""

from typing import Any

from services.api.shapes import in_utc, in_utc_or_none, known_status
from services.api.webhooks.shapes import Delivery, NewWebhook, Webhook
from services.store.webhook_deliveries import Delivery as DeliveryRow
from services.store.webhooks import Webhook as WebhookRow


def webhook_shape(row: WebhookRow) -> Webhook:
    return Webhook(**_facts(row))


def new_webhook_shape(row: WebhookRow, secret: str) -> NewWebhook:
    return NewWebhook(**_facts(row), secret=secret)


def _facts(row: WebhookRow) -> dict[str, Any]:
    address = f"/v1/webhooks/{row.webhook_id}"
    return {
        "id": row.webhook_id,
        "url": row.url,
        "events": row.events,
        "enabled": row.disabled_at is None,
        "disabled_reason": row.disabled_reason,
        "disabled_at": in_utc_or_none(row.disabled_at),
        "first_failed_at": in_utc_or_none(row.first_failed_at),
        "old_secret_expires_at": in_utc_or_none(row.old_secret_expires_at),
        "version": row.version,
        "links": {"self": address, "deliveries": f"{address}/deliveries"},
        "created_at": in_utc(row.created_at),
        "updated_at": in_utc(row.updated_at),
    }


def delivery_shape(row: DeliveryRow) -> Delivery:
    webhook = f"/v1/webhooks/{row.webhook_id}"
    return Delivery(
        id=row.delivery_id,
        webhook_id=row.webhook_id,
        event_id=row.event_id,
        type=row.type,
        payload=row.payload,
        status=known_status(row.status),
        attempts=row.attempts,
        status_code=row.status_code,
        error=row.error,
        reply=row.reply,
        next_attempt_at=in_utc_or_none(row.due_at),
        links={"self": f"{webhook}/deliveries/{row.delivery_id}", "webhook": webhook},
        created_at=in_utc(row.created_at),
        updated_at=in_utc(row.updated_at),
    )
