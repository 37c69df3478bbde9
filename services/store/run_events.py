"""Events of runs: numbered from 1 without gaps, in the order in which they were committed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import class_row

from services.domain.ledger import ChildEvent
from services.domain.storable_json import storable
from services.store.database import EVENTS, Connection, notify

# A single statement. Numbers come from the counter in the run's row, which the caller has locked.
_APPEND: Final = """
WITH numbered AS (
    UPDATE runs SET event_seq = event_seq + %(count)s WHERE run_id = %(run_id)s
    RETURNING run_id, tenant_id, fence, event_seq - %(count)s AS before
)
INSERT INTO events (run_id, seq, tenant_id, fence, type, step, data)
SELECT run_id, before + position, tenant_id, fence, type, step, data::jsonb
FROM numbered,
    unnest(%(types)s::text[], %(steps)s::integer[], %(data)s::text[])
        WITH ORDINALITY AS added (type, step, data, position)
"""


def append(conn: Connection, run_id: str, events: Sequence[ChildEvent]) -> None:
    """Append events to a run, with its current fence, and notify the listeners."""
    if not events:
        return
    facts = {
        "run_id": run_id,
        "count": len(events),
        "types": [event.type for event in events],
        "steps": [event.step for event in events],
        "data": [_json_text(event.data) for event in events],
    }
    conn.execute(_APPEND, facts)
    notify(conn, EVENTS, run_id)


_AMONG_NEWEST: Final = """
SELECT FROM (
    SELECT fence, type, step, data FROM events WHERE run_id = %(run_id)s ORDER BY seq DESC LIMIT 200
) AS newest
WHERE fence = %(fence)s AND type = %(type)s AND step = %(step)s AND data = %(data)s::jsonb LIMIT 1
"""


def is_among_newest(conn: Connection, run_id: str, fence: int, event: ChildEvent) -> bool:
    """Whether the attempt has stored an equal event lately."""
    facts = {
        "run_id": run_id,
        "fence": fence,
        "type": event.type,
        "step": event.step,
        "data": _json_text(event.data),
    }
    return conn.execute(_AMONG_NEWEST, facts).fetchone() is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast an attempt trains."""

    step_s: float
    """Mean of its steps."""
    steps: int
    """That it has taken."""


_NEWEST_PACE: Final = """
SELECT 1 / (data->>'steps_per_s')::double precision AS step_s, newest.step - from_step AS steps
FROM (
    SELECT seq, run_id, tenant_id, fence, type, step, data FROM events
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s ORDER BY seq DESC LIMIT 50
) AS newest JOIN attempts USING (run_id, tenant_id, fence)
WHERE type = 'step' AND fence = %(fence)s AND jsonb_typeof(data->'steps_per_s') = 'number'
    AND (data->>'steps_per_s')::double precision > 0 AND newest.step > from_step
ORDER BY seq DESC LIMIT 1
"""


def newest_pace(conn: Connection, tenant_id: str, run_id: str, fence: int) -> Pace | None:
    """The pace in the newest event of a step; None where the attempt reported none lately."""
    facts = {"tenant_id": tenant_id, "run_id": run_id, "fence": fence}
    with conn.cursor(row_factory=class_row(Pace)) as cursor:
        return cursor.execute(_NEWEST_PACE, facts).fetchone()


def _json_text(data: dict[str, Any]) -> str:
    """JSON text that PostgreSQL accepts: without NaN, infinity and NUL characters.

    A training process avoids them, but a library's message may contain them.
    """
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        return json.dumps(storable(data))
    return json.dumps(storable(data)) if "\\u0000" in text else text
