"""Checks a part of a tenant's audit log against itself and its anchors."""

from typing import Final

from services.api.audit_log.shapes import AuditMisfit, AuditVerification
from services.domain.audit import (
    Anchor,
    AuditEvent,
    Link,
    Misfit,
    first_misfit,
    missing,
    missing_end,
)

EVENTS_A_REQUEST: Final = 2000


def check_part(
    events: list[AuditEvent], anchors: list[Anchor], after: int | None
) -> AuditVerification:
    """What is wrong with a part of the chain.

    Args:
        events: one more than are checked, where there are more.
        anchors: of the whole chain, read before the events.
        after: the number of an event that was checked before, with which the part begins.
    """
    checked, has_more = events[:EVENTS_A_REQUEST], len(events) > EVENTS_A_REQUEST
    last_seq = checked[-1].seq if checked else after or 0
    if after is not None and not checked:
        misfit: Misfit | None = missing(after)
    else:
        misfit = first_misfit(_before(checked, after), checked, anchors)
    if misfit is None and not has_more:
        misfit = missing_end(last_seq, anchors)
    return AuditVerification(
        is_whole=misfit is None,
        misfit=None
        if misfit is None
        else AuditMisfit(seq=misfit.seq, kind=misfit.kind, message=misfit.message),
        first_seq=checked[0].seq if checked else None,
        last_seq=checked[-1].seq if checked else None,
        anchored_seq=max((anchor.seq for anchor in anchors), default=None),
        next_after=last_seq if has_more and misfit is None else None,
    )


def _before(checked: list[AuditEvent], after: int | None) -> Link | None:
    """What the first event has to follow: the event ``after`` was checked, and is checked again."""
    if after is None:
        return None
    hash_before = checked[0].hash_before if checked else ""
    return Link(seq=after - 1, hash=hash_before)
