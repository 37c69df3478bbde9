"""What restored backups cost a tenant's audit log, as operators acknowledged it."""

from collections.abc import Sequence
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.audit import AuditEvent, Author
from services.domain.audit_chain import (
    RESTORED,
    Acknowledged,
    Anchor,
    Loss,
    acknowledged,
    counting,
    loss_of,
)
from services.store import audit
from services.store.database import Connection, columns_of

# The target is the tenant, so that the index by target finds these few events.
_ACKNOWLEDGED: Final = SQL("""
SELECT {columns} FROM audit_events
WHERE tenant_id = %(tenant_id)s AND target = %(tenant_id)s AND action = %(action)s ORDER BY seq
""").format(columns=columns_of(AuditEvent))


def all_acknowledged(conn: Connection, tenant_id: str) -> list[Acknowledged]:
    """The losses that operators acknowledged, oldest first."""
    facts = {"tenant_id": tenant_id, "action": RESTORED}
    with conn.cursor(row_factory=class_row(AuditEvent)) as cursor:
        return [acknowledged(event) for event in cursor.execute(_ACKNOWLEDGED, facts)]


_FIRST: Final = "SELECT min(seq) FROM audit_events WHERE tenant_id = %s"
_HASHES: Final = "SELECT seq, hash FROM audit_events WHERE tenant_id = %s AND seq = ANY(%s)"


def find(conn: Connection, tenant_id: str, anchors: Sequence[Anchor]) -> Loss | None:
    """What is lost and not acknowledged.

    Args:
        anchors: of the whole log.
    """
    open_anchors = counting(anchors, all_acknowledged(conn, tenant_id))
    first = conn.execute(_FIRST, (tenant_id,)).fetchone()
    seqs = [anchor.seq for anchor in open_anchors]
    hashes: dict[int, str] = dict(conn.execute(_HASHES, (tenant_id, seqs)).fetchall())
    return loss_of(open_anchors, hashes, first_seq=(first[0] if first else None) or 1)


def acknowledge(conn: Connection, tenant_id: str, author: Author, loss: Loss) -> None:
    """Record the loss in the log itself, which goes on with this event. Call it last."""
    audit.record(conn, tenant_id, author, RESTORED, tenant_id, data=loss.as_facts())
