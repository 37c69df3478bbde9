"""Anchors of audit logs: the hash of a log's newest event, kept outside the database.

Also where a log may begin, whose older events were deleted by their age. Both lie outside the
prefix of their tenant and are never overwritten. The key says it all, so that a list of keys is
enough to check a log.
"""

import json
from datetime import datetime

from services.domain.audit_chain import Anchor
from services.objects.keys import (
    anchor_key,
    anchored,
    anchors_prefix,
    beginning_key,
    beginnings_prefix,
)
from services.objects.port import ObjectStore


def write_anchor(
    objects: ObjectStore, service_id: str, tenant_id: str, anchor: Anchor, at: datetime
) -> None:
    """Store an anchor; an older one of the same event is kept."""
    body = {
        "tenant_id": tenant_id,
        "seq": anchor.seq,
        "hash": anchor.hash,
        "anchored_at": at.isoformat(),
    }
    key = anchor_key(service_id, tenant_id, anchor.seq, anchor.hash)
    objects.commit_once(key, json.dumps(body, sort_keys=True).encode())


def read_anchors(objects: ObjectStore, service_id: str, tenant_id: str) -> list[Anchor]:
    """All anchors of a tenant's log, that of the oldest event first."""
    return _listed(objects, anchors_prefix(service_id, tenant_id))


def write_beginning(
    objects: ObjectStore, service_id: str, tenant_id: str, beginning: Anchor
) -> None:
    """Say that a log may begin with this event: call it before those before it are deleted."""
    key = beginning_key(service_id, tenant_id, beginning.seq, beginning.hash)
    objects.commit_once(key, b"{}")


def read_beginnings(objects: ObjectStore, service_id: str, tenant_id: str) -> list[Anchor]:
    """All events with which a tenant's log may begin."""
    return _listed(objects, beginnings_prefix(service_id, tenant_id))


def _listed(objects: ObjectStore, prefix: str) -> list[Anchor]:
    keys = objects.list_keys(prefix)
    return [Anchor(seq=seq, hash=event_hash) for seq, event_hash in map(anchored, keys)]
