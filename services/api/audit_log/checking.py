"""Checks a tenant's audit log, in parts, against itself and its anchors."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from services.api.audit_log.shapes import AuditLoss, AuditMisfit, AuditVerification
from services.api.shapes import in_utc
from services.domain.audit import AuditEvent
from services.domain.audit_chain import (
    Acknowledged,
    Anchor,
    Link,
    Misfit,
    counting,
    first_misfit,
    missing,
    missing_end,
)
from services.objects.audit_anchors import read_anchors, read_beginnings
from services.objects.port import ObjectStore
from services.store import audit, audit_losses
from services.store.database import Connection

EVENTS_A_REQUEST: Final = 2000


def verify_part(
    transaction: Callable[[], AbstractContextManager[Connection]],
    objects: ObjectStore,
    tenant_id: str,
    after: int | None,
) -> AuditVerification:
    """Check the events after ``after``, oldest first; None: from the beginning.

    Args:
        transaction: opens one that sees the tenant's rows.
    """
    with transaction() as conn:
        service_id = audit.service_id(conn)
    anchors: list[Anchor] = []
    beginnings: list[Anchor] = []
    if service_id is not None:
        anchors = read_anchors(objects, service_id, tenant_id)
        # Only the first part has the beginning.
        beginnings = read_beginnings(objects, service_id, tenant_id) if after is None else []
    with transaction() as conn:  # after the anchors: events may come
        losses = audit_losses.all_acknowledged(conn, tenant_id)
        events = audit.chain(conn, tenant_id, after or 0, EVENTS_A_REQUEST + 1)
    return check_part(events, anchors, after, losses, beginnings)


def check_part(
    events: list[AuditEvent],
    anchors: list[Anchor],
    after: int | None,
    losses: Sequence[Acknowledged] = (),
    beginnings: Sequence[Anchor] = (),
) -> AuditVerification:
    """What is wrong with a part of the chain.

    Args:
        events: one more than are checked, where there are more.
        anchors: of the whole chain, read before the events.
        after: the number of an event that was checked before, with which the part begins.
        losses: those that were acknowledged; their anchors do not count.
        beginnings: with which the chain may begin after number 1.
    """
    anchors = counting(anchors, losses)
    checked, has_more = events[:EVENTS_A_REQUEST], len(events) > EVENTS_A_REQUEST
    last_seq = checked[-1].seq if checked else after or 0
    if after is not None and not checked:
        misfit: Misfit | None = missing(after)
    else:
        misfit = first_misfit(_before(checked, after), checked, anchors, beginnings)
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
        losses=[_loss_shape(each) for each in losses],
        next_after=last_seq if has_more and misfit is None else None,
    )


def _before(checked: list[AuditEvent], after: int | None) -> Link | None:
    """What the first event has to follow: the event ``after`` was checked, and is checked again."""
    if after is None:
        return None
    hash_before = checked[0].hash_before if checked else ""
    return Link(seq=after - 1, hash=hash_before)


def _loss_shape(each: Acknowledged) -> AuditLoss:
    return AuditLoss(
        first_seq=each.loss.first_seq,
        last_seq=each.loss.last_seq,
        acknowledged_by_seq=each.seq,
        acknowledged_at=in_utc(each.created_at),
    )
