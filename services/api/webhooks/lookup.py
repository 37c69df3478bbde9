"""Finding the webhook and the delivery that an address names."""

from typing import Annotated

from fastapi import Depends

from services.api.webhooks.shapes import DeliveryId, WebhookId
from services.domain.errors import NotFoundError, WebhookDisabledError
from services.domain.ids import is_id
from services.store import webhooks
from services.store.database import Connection
from services.store.webhooks import Webhook


def checked_webhook_id(webhook_id: WebhookId) -> str:
    """Raises NotFoundError where the text cannot be an id."""
    if not is_id(webhook_id, "wh"):
        raise NotFoundError("webhook", webhook_id)
    return webhook_id


CheckedWebhookId = Annotated[str, Depends(checked_webhook_id)]
"""Checked before the body: ``PATCH /v1/webhooks/wh_…:test`` names no webhook."""


def checked_delivery_id(delivery_id: DeliveryId) -> str:
    """Raises NotFoundError where the text cannot be an id."""
    if not is_id(delivery_id, "whd"):
        raise NotFoundError("delivery", delivery_id)
    return delivery_id


CheckedDeliveryId = Annotated[str, Depends(checked_delivery_id)]


def lock_enabled(conn: Connection, tenant_id: str, webhook_id: str) -> Webhook:
    """The webhook, locked. Raises NotFoundError, and WebhookDisabledError."""
    row = webhooks.lock(conn, tenant_id, webhook_id)
    if row.disabled_at is not None:
        raise WebhookDisabledError(webhook_id)
    return row
