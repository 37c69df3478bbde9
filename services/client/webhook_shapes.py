"""The JSON of webhooks as types."""

from typing import Any, Literal, NotRequired, TypedDict

from services.domain.webhooks import EventType

DeliveryStatus = Literal["pending", "succeeded", "failed"]


class WebhookRequest(TypedDict):
    url: str
    events: NotRequired[list[EventType] | None]
    """None: all."""


class WebhookPatch(TypedDict, total=False):
    """What is to be changed."""

    url: str
    events: list[EventType] | None
    enabled: bool


class Webhook(TypedDict):
    """An address that is told of events; without its secret."""

    id: str
    object: Literal["webhook"]
    url: str
    events: list[str] | None
    enabled: bool
    disabled_reason: Literal["requested", "gone", "failing"] | None
    disabled_at: str | None
    first_failed_at: str | None
    old_secret_expires_at: str | None
    version: int
    links: dict[str, str]
    created_at: str
    updated_at: str


class NewWebhook(Webhook):
    secret: str | None
    """None where the answer to the first try was lost: rotate the secret."""


class Delivery(TypedDict):
    """An event on its way to a webhook."""

    id: str
    object: Literal["webhook_delivery"]
    webhook_id: str
    event_id: str
    type: str
    payload: dict[str, Any]
    status: DeliveryStatus
    attempts: int
    status_code: int | None
    error: str | None
    reply: str | None
    next_attempt_at: str | None
    links: dict[str, str]
    created_at: str
    updated_at: str
