"""What is known of the pictures that a run made."""

from typing import Final

from services.store.database import Connection

_NEWEST_PROMPT: Final = """
SELECT data->>'prompt' FROM events
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND type = 'sample' AND seq > (
    SELECT event_seq - 100 FROM runs WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s)
ORDER BY seq DESC LIMIT 1
"""


def newest_prompt(conn: Connection, tenant_id: str, run_id: str) -> str | None:
    """Of the picture that a finished run made at its end; None where it has no prompt."""
    facts = {"tenant_id": tenant_id, "run_id": run_id}
    row = conn.execute(_NEWEST_PROMPT, facts).fetchone()
    return None if row is None else row[0]
