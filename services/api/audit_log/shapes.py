"""The audit log as JSON answers."""

from datetime import datetime
from typing import Literal

from services.api.shapes import JsonObject, Shape
from services.domain.audit import Kind


class AuditEvent(Shape):
    """Who did what, with the hash of the event before. ``seq`` counts from 1 without gaps."""

    object: Literal["audit_event"] = "audit_event"
    seq: int
    tenant_id: str
    created_at: datetime
    actor: JsonObject
    """``kind`` (key, operator, service), ``id``, and ``member_id`` of a tenant's key."""
    action: str
    target: str
    client: str
    """Address that the request came from."""
    data: JsonObject
    hash_before: str
    hash: str


class AuditMisfit(Shape):
    """The first event that does not fit into its chain."""

    seq: int
    kind: Kind
    message: str


class AuditVerification(Shape):
    """What a part of the chain is like."""

    object: Literal["audit_verification"] = "audit_verification"
    is_whole: bool
    """Whether every event that was looked at fits."""
    misfit: AuditMisfit | None
    first_seq: int | None
    """Of the events that were looked at; null where there are none."""
    last_seq: int | None
    anchored_seq: int | None
    """The newest event whose hash the object store has; null before the first day is over."""
    next_after: int | None
    """Go on with ``?after=``; null at the end of the chain."""
