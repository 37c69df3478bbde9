"""Events of runs: numbered from 1 without gaps, in the order in which they were committed."""

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from services.domain.ledger import ChildEvent
from services.store.database import EVENTS, Connection, notify

# One statement: the row of the run, which the caller has locked, hands out the numbers.
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
    """Write events of a run under its present fence and notify the listeners."""
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


def _json_text(data: dict[str, Any]) -> str:
    """As JSON that the database takes: no NaN, no infinity, no NUL character.

    A training process keeps to that, but a library's message in it may not.
    """
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        return json.dumps(_storable(data))
    return json.dumps(_storable(data)) if "\\u0000" in text else text


def _storable(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value.replace("\0", "")
        case dict():
            return {key.replace("\0", ""): _storable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case _:
            return value
