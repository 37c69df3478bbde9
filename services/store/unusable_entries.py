"""Cache entries that cannot be encoded, and why: what needs them is left out of a run."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from services.store.database import Connection, seconds

_ROWS_A_STATEMENT: Final = 5000
_RECORD: Final = """
INSERT INTO unusable_entries (tenant_id, digest, reason)
SELECT %s, digest, reason FROM unnest(%s::text[], %s::text[]) AS new (digest, reason)
ORDER BY digest ON CONFLICT DO NOTHING
"""


def record(conn: Connection, tenant_id: str, reasons: Mapping[str, str]) -> None:
    """Note entries, by their digests, and why each cannot be encoded."""
    conn.execute(_RECORD, (tenant_id, list(reasons), list(reasons.values())))


_REASONS: Final = """
SELECT digest, reason FROM unusable_entries WHERE tenant_id = %s AND digest = ANY(%s)
"""


def reasons(conn: Connection, tenant_id: str, digests: Sequence[str]) -> dict[str, str]:
    """Those of the entries that cannot be encoded → why."""
    found: dict[str, str] = {}
    for start in range(0, len(digests), _ROWS_A_STATEMENT):
        some = list(digests[start : start + _ROWS_A_STATEMENT])
        found.update(conn.execute(_REASONS, (tenant_id, some)).fetchall())
    return found


_DELETE_OLD: Final = """
DELETE FROM unusable_entries WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM unusable_entries
    WHERE created_at < clock_timestamp() - make_interval(secs => %s) LIMIT %s))
"""


def delete_old(conn: Connection, *, age: timedelta, limit: int) -> int:
    """Forget some that are of this age; a run that needs one finds it out again."""
    return conn.execute(_DELETE_OLD, (seconds(age), limit)).rowcount
