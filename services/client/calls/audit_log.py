"""The audit log of the tenant."""

from services.client.audit_shapes import AuditEvent, AuditVerification
from services.client.call import Call, get, page
from services.client.shapes import Page


def list_audit_events(
    *,
    limit: int = 20,
    after: str | None = None,
    action: str | None = None,
    target: str | None = None,
    actor: str | None = None,
) -> Call[Page[AuditEvent]]:
    """Newest first; of one action, target or actor (a key or a member) where they are given."""
    query = {"limit": limit, "after": after, "action": action, "target": target, "actor": actor}
    return page("/v1/audit-events", query)


def verify_audit_events(*, after: int | None = None) -> Call[AuditVerification]:
    """Check a part of the log; go on with ``after`` = ``next_after`` until that is None."""
    return get("/v1/audit-events:verify", {"after": after})
