"""The audit log of each tenant. Events are written in the transaction of what they tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.audit import AuditEvent, Author, Facts, content_hash, content_of
from services.domain.audit_chain import Anchor
from services.store.database import Connection, columns_of, seconds

_APPEND: Final = "SELECT append_audit_event(%s, %s::jsonb, %s)"


def record(
    conn: Connection,
    tenant_id: str,
    author: Author,
    action: str,
    target: str,
    *,
    data: Facts | None = None,
) -> None:
    """Append an event to the tenant's chain.

    Call it last in the transaction: the tenant's other events wait for the commit.

    Args:
        action: such as ``run.canceled``.
        target: the id that it was done to.
    """
    content = content_of(
        tenant_id=tenant_id,
        actor=author.as_json(),
        action=action,
        target=target,
        client=author.client,
        data=data or {},
    )
    conn.execute(_APPEND, (tenant_id, content, content_hash(content)))


_LIST: Final = SQL("""
SELECT {columns} FROM audit_events
WHERE tenant_id = %(tenant_id)s AND (%(before_seq)s::bigint IS NULL OR seq < %(before_seq)s)
    AND (%(action)s::text IS NULL OR action = %(action)s)
    AND (%(target)s::text IS NULL OR target = %(target)s)
    AND (%(actor)s::text IS NULL OR %(actor)s IN (actor ->> 'id', actor ->> 'member_id'))
ORDER BY seq DESC LIMIT %(limit)s
""").format(columns=columns_of(AuditEvent))


def list_page(
    conn: Connection,
    tenant_id: str,
    limit: int,
    before_seq: int | None = None,
    *,
    action: str | None = None,
    target: str | None = None,
    actor: str | None = None,
) -> list[AuditEvent]:
    """Newest first; those of one action, target and actor (key or member) where they are named."""
    facts = {
        "tenant_id": tenant_id,
        "limit": limit,
        "before_seq": before_seq,
        "action": action,
        "target": target,
        "actor": actor,
    }
    with conn.cursor(row_factory=class_row(AuditEvent)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


_CHAIN: Final = SQL("""
SELECT {columns} FROM audit_events WHERE tenant_id = %s AND seq >= %s ORDER BY seq LIMIT %s
""").format(columns=columns_of(AuditEvent))


def chain(conn: Connection, tenant_id: str, from_seq: int, limit: int) -> list[AuditEvent]:
    """Events from this number on, oldest first."""
    with conn.cursor(row_factory=class_row(AuditEvent)) as cursor:
        return cursor.execute(_CHAIN, (tenant_id, from_seq, limit)).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """The newest event of a tenant's chain."""

    tenant_id: str
    seq: int
    hash: str
    read_at: datetime


_NEWEST: Final = """
SELECT tenant_id, seq, hash, clock_timestamp() AS read_at FROM audit_events
WHERE tenant_id = %s ORDER BY seq DESC LIMIT 1
"""


def newest(conn: Connection, tenant_id: str) -> Newest | None:
    """None for a tenant without events."""
    with conn.cursor(row_factory=class_row(Newest)) as cursor:
        return cursor.execute(_NEWEST, (tenant_id,)).fetchone()


_UNANCHORED: Final = """
SELECT tenant_id, seq, hash, clock_timestamp() AS read_at FROM tenants JOIN LATERAL (
    SELECT seq, hash FROM audit_events WHERE audit_events.tenant_id = tenants.tenant_id
    ORDER BY seq DESC LIMIT 1
) AS newest ON seq > audit_anchored_seq
WHERE audit_anchored_at IS NULL
    OR audit_anchored_at < clock_timestamp() - make_interval(secs => %s)
ORDER BY audit_anchored_at NULLS FIRST LIMIT %s
"""


def unanchored(conn: Connection, *, every: timedelta, limit: int) -> list[Newest]:
    """Newest events, of chains that grew and were not anchored for so long."""
    with conn.cursor(row_factory=class_row(Newest)) as cursor:
        return cursor.execute(_UNANCHORED, (seconds(every), limit)).fetchall()


_ANCHORED: Final = """
UPDATE tenants SET audit_anchored_at = clock_timestamp(),
    audit_anchored_seq = greatest(audit_anchored_seq, %s)
WHERE tenant_id = %s
"""


def mark_anchored(conn: Connection, event: Newest) -> None:
    """The object store has an anchor of this event."""
    conn.execute(_ANCHORED, (event.seq, event.tenant_id))


# The oldest event stays: it is the anchored one at which older ones were deleted.
_OLD: Final = """
SELECT tenant_id FROM tenants JOIN LATERAL (
    SELECT created_at AS oldest FROM audit_events
    WHERE audit_events.tenant_id = tenants.tenant_id ORDER BY seq OFFSET 1 LIMIT 1
) AS second ON oldest < clock_timestamp() - make_interval(secs => %s)
ORDER BY random() LIMIT %s
"""


def with_old_events(conn: Connection, *, after: timedelta, limit: int) -> list[str]:
    """Tenants with several events of which some are older than ``after``."""
    return [row[0] for row in conn.execute(_OLD, (seconds(after), limit))]


_NEXT_BEGINNING: Final = """
SELECT seq, hash FROM audit_events
    JOIN unnest(%(seqs)s::bigint[], %(hashes)s::text[]) AS anchor (seq, hash) USING (seq, hash)
WHERE tenant_id = %(tenant_id)s
    AND created_at < clock_timestamp() - make_interval(secs => %(after_s)s)
    AND seq > (SELECT min(seq) FROM audit_events WHERE tenant_id = %(tenant_id)s)
ORDER BY seq LIMIT 1
"""


def next_beginning(
    conn: Connection, tenant_id: str, anchors: Sequence[Anchor], *, after: timedelta
) -> Anchor | None:
    """The next anchored event that is older than ``after``; None where there is none.

    Args:
        anchors: at which the log may begin. One that differs from its row is not used.
    """
    facts = {
        "tenant_id": tenant_id,
        "seqs": [anchor.seq for anchor in anchors],
        "hashes": [anchor.hash for anchor in anchors],
        "after_s": seconds(after),
    }
    row = conn.execute(_NEXT_BEGINNING, facts).fetchone()
    return None if row is None else Anchor(seq=row[0], hash=row[1])


_TRIM: Final = "DELETE FROM audit_events WHERE tenant_id = %s AND seq < %s"


def trim(conn: Connection, tenant_id: str, beginning: Anchor) -> int:
    """Delete the events before this one; returns how many."""
    return conn.execute(_TRIM, (tenant_id, beginning.seq)).rowcount


_SERVICE: Final = "SELECT service_id FROM restore_guard"


def service_id(conn: Connection) -> str | None:
    """Names the folder of the anchors; None where ``results`` never ran."""
    row = conn.execute(_SERVICE).fetchone()
    return None if row is None else str(row[0])
