"""Whether the parts of the service that the API does not use work, as others reported."""

from datetime import timedelta
from typing import Final

from services.store import restore_guard
from services.store.database import Connection, seconds

DISPATCHER: Final = "dispatcher"
BROKER: Final = "broker"
DATABASE_RESTORED: Final = "database_restored"

_NOTE: Final = """
INSERT INTO health (part, is_ok) VALUES (%s, %s)
ON CONFLICT (part) DO UPDATE SET is_ok = excluded.is_ok, checked_at = clock_timestamp()
"""


def note(conn: Connection, part: str, *, is_ok: bool) -> None:
    """Report how a part is."""
    conn.execute(_NOTE, (part, is_ok))


_WORKING: Final = """
SELECT part FROM health
WHERE is_ok AND checked_at > clock_timestamp() - make_interval(secs => %s)
"""


def degraded(conn: Connection, *, silence: timedelta) -> list[str]:
    """The parts that do not work; a part without a report for ``silence`` counts as one of them."""
    working = {row[0] for row in conn.execute(_WORKING, (seconds(silence),))}
    parts = [part for part in (DISPATCHER, BROKER) if part not in working]
    return [*parts, DATABASE_RESTORED] if restore_guard.is_restored(conn) else parts
