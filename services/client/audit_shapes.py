"""The audit log, as JSON."""

from typing import Any, Literal, TypedDict


class AuditEvent(TypedDict):
    """Who did what; ``hash`` is of everything else, with ``hash_before`` of the event before."""

    object: Literal["audit_event"]
    seq: int
    tenant_id: str
    created_at: str
    actor: dict[str, Any]
    action: str
    target: str
    client: str
    data: dict[str, Any]
    hash_before: str
    hash: str


class AuditMisfit(TypedDict):
    seq: int
    kind: Literal["edited", "removed", "reordered", "rewritten", "truncated"]
    message: str


class AuditLoss(TypedDict):
    """Events that were lost when a backup was restored, as an operator acknowledged it."""

    first_seq: int
    last_seq: int
    acknowledged_by_seq: int
    acknowledged_at: str


class AuditVerification(TypedDict):
    """What a part of the audit log is like."""

    object: Literal["audit_verification"]
    is_whole: bool
    misfit: AuditMisfit | None
    first_seq: int | None
    last_seq: int | None
    anchored_seq: int | None
    losses: list[AuditLoss]
    next_after: int | None
