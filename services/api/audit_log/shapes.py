"""The audit log as JSON answers."""

from datetime import datetime
from typing import Literal

from services.api.shapes import JsonObject, Shape
from services.domain.audit_chain import Kind


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


class AuditLoss(Shape):
    """Events that were lost when a backup was restored, as an operator acknowledged it.

    Other events have their numbers now.
    """

    first_seq: int
    """Nothing before this one is lost. The first ones may be there: no anchor tells."""
    last_seq: int
    """The newest that is known to be lost."""
    acknowledged_by_seq: int
    """The event ``audit.restored`` that says so."""
    acknowledged_at: datetime


class AuditVerification(Shape):
    """What a part of the chain is like."""

    object: Literal["audit_verification"] = "audit_verification"
    is_whole: bool
    """Whether every event that was looked at fits, but for ``losses``."""
    misfit: AuditMisfit | None
    first_seq: int | None
    """Of the events that were looked at; null where there are none."""
    last_seq: int | None
    anchored_seq: int | None
    """The newest event whose hash the object store has; null before the first day is over."""
    losses: list[AuditLoss]
    """Of the whole log."""
    next_after: int | None
    """Go on with ``?after=``; null at the end of the chain."""
