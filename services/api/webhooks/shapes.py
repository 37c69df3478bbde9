"""Webhooks and deliveries as JSON: requests and answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from services.api.shapes import LEFT_OUT, WHOLE, Body, JsonObject, Shape
from services.domain.webhooks import MOST_URL_CHARACTERS, SECRET_GRACE_S, EventType

WebhookId = Annotated[str, Field(json_schema_extra={"pattern": "^wh_[0-9a-f]{32}$"})]
DeliveryId = Annotated[str, Field(json_schema_extra={"pattern": "^whd_[0-9a-f]{32}$"})]
DeliveryStatus = Literal["pending", "succeeded", "failed"]
Url = Annotated[str, Field(min_length=1, max_length=MOST_URL_CHARACTERS)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=100)]
_MOST_GRACE_S = 7 * 86_400


class WebhookRequest(Body):
    """A new webhook."""

    url: Url
    """``https://…``, with the port 443, or 1024 or more. It has to be on the public internet."""
    events: Events | None = None
    """Types of the events that it is for. Null: all, also those of later versions."""


class WebhookPatch(Body):
    """What is to be changed."""

    url: Url = LEFT_OUT
    events: Events | None = None
    enabled: bool = LEFT_OUT
    """False: nothing is sent, and events are not kept for later. True: what waits is sent."""


class RotateSecretRequest(Body):
    """All of it may be left out."""

    grace_s: Annotated[int, Field(ge=0, le=_MOST_GRACE_S), WHOLE] = SECRET_GRACE_S
    """Seconds for which the old secret signs beside the new one."""


class Webhook(Shape):
    """An address that is told of events; without its secret."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str] | None
    enabled: bool
    disabled_reason: Literal["requested", "gone", "failing"] | None
    """``gone``: it answered 410. ``failing``: for three days no answer was good."""
    disabled_at: datetime | None
    first_failed_at: datetime | None
    """Of the tries since the newest good answer; null where the newest one was good."""
    old_secret_expires_at: datetime | None
    """Until then the secret before signs, too."""
    version: int
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime


class NewWebhook(Webhook):
    """A webhook with a new secret."""

    secret: str | None
    """``whsec_…``, shown this once. Null in a replay of the request: rotate the secret then."""


class Delivery(Shape):
    """An event on its way to a webhook."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook_id: str
    event_id: str
    """The header ``webhook-id``, the same in every try."""
    type: str
    payload: JsonObject
    """The body."""
    status: DeliveryStatus
    attempts: int
    """Tries so far; since it was replayed, if it was."""
    status_code: int | None
    """Of the newest answer; null where there was none."""
    error: str | None
    """Why there was none."""
    reply: str | None
    """The first 2,048 bytes of the answer."""
    next_attempt_at: datetime | None
    links: dict[str, str]
    created_at: datetime
    updated_at: datetime
