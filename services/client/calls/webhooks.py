"""Webhooks: addresses that the service tells of events."""

from services.client.call import Call, delete, get, page, part, patch, post
from services.client.shapes import Page
from services.client.webhook_shapes import (
    Delivery,
    DeliveryStatus,
    NewWebhook,
    Webhook,
    WebhookPatch,
    WebhookRequest,
)


def list_webhooks(*, limit: int = 20, after: str | None = None) -> Call[Page[Webhook]]:
    """Newest first."""
    return page("/v1/webhooks", {"limit": limit, "after": after})


def create_webhook(request: WebhookRequest) -> Call[NewWebhook]:
    """A new webhook; its secret is in this answer and nowhere else."""
    return post("/v1/webhooks", request)


def get_webhook(webhook_id: str) -> Call[Webhook]:
    """What it is for, and whether it works."""
    return get(f"/v1/webhooks/{part(webhook_id)}")


def change_webhook(
    webhook_id: str, changes: WebhookPatch, *, version: int | None = None
) -> Call[Webhook]:
    """Set its address or its events, or enable or disable it.

    Args:
        version: only if it still has this one.
    """
    return patch(f"/v1/webhooks/{part(webhook_id)}", changes, version=version)


def delete_webhook(webhook_id: str) -> Call[None]:
    """Nothing more is sent to it; where an answer was lost, a further try may find nothing."""
    return delete(f"/v1/webhooks/{part(webhook_id)}")


def rotate_webhook_secret(webhook_id: str, *, grace_s: int = 86_400) -> Call[NewWebhook]:
    """A new secret; both sign for ``grace_s`` more."""
    return post(f"/v1/webhooks/{part(webhook_id)}:rotate-secret", {"grace_s": grace_s})


def test_webhook(webhook_id: str) -> Call[Delivery]:
    """Send the event ``webhook.test``; its delivery shows the answer soon."""
    return post(f"/v1/webhooks/{part(webhook_id)}:test")


def list_deliveries(
    webhook_id: str,
    *,
    status: DeliveryStatus | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Call[Page[Delivery]]:
    """Newest first, of one status or of all."""
    query = {"status": status, "limit": limit, "after": after}
    return page(f"/v1/webhooks/{part(webhook_id)}/deliveries", query)


def get_delivery(webhook_id: str, delivery_id: str) -> Call[Delivery]:
    """What is sent, what was answered last, and when it is tried again."""
    return get(f"/v1/webhooks/{part(webhook_id)}/deliveries/{part(delivery_id)}")


def replay_delivery(webhook_id: str, delivery_id: str) -> Call[Delivery]:
    """Send the event again, with the same id."""
    return post(f"/v1/webhooks/{part(webhook_id)}/deliveries/{part(delivery_id)}:replay")
