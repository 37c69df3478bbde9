"""What finished work took, of all tenants and without anything of theirs; estimates are made of it.

Rows are written where work ends, in the same transaction, and only the newest are kept.
"""

import math
from collections.abc import Mapping
from typing import Final

from psycopg.rows import class_row

from services.domain.encoding_pace import EncodingPace
from services.domain.estimates import MeasuredAttempt
from services.store.database import Connection
from services.store.run_rows import Run

_KEPT: Final = 200
"""Attempts of one base model on one GPU class: as many as ``newest_measured_attempts`` reads."""

# The times are in the outcome event of the training process, which was stored a moment ago. What
# lasted from the claim to the end is known here only.
_RECORD: Final = """
INSERT INTO measured_attempts (attempt_id, gpu_class, base_model, work, num_steps, step_s, start_s,
    checkpoint_s, end_s, total_s, process_s, charged_s)
SELECT attempt_id, coalesce(attempts.gpu_class, runs.gpu_class), base_model, work,
    (times->>'steps')::integer, (times->>'step_s')::double precision,
    (times->>'start_s')::double precision, (times->>'checkpoint_s')::double precision,
    CASE WHEN type = 'finished' THEN (times->>'end_s')::double precision END,
    extract(epoch FROM ended_at - attempts.started_at),
    (times->>'process_s')::double precision, attempts.charged_s
FROM runs JOIN attempts USING (run_id, fence) CROSS JOIN LATERAL (
    SELECT type, data->'times' AS times FROM events
    WHERE events.run_id = runs.run_id AND events.fence = runs.fence AND seq > event_seq - 20
        AND type IN ('finished', 'stopped')
    ORDER BY seq DESC LIMIT 1
) AS outcome
WHERE run_id = %(run_id)s AND work IS NOT NULL AND ended_at IS NOT NULL
    AND jsonb_typeof(times->'steps') = 'number' AND (times->>'steps')::integer > 0
    AND jsonb_typeof(times->'step_s') = 'number' AND jsonb_typeof(times->'start_s') = 'number'
    AND jsonb_typeof(times->'process_s') = 'number'
ON CONFLICT DO NOTHING
"""
_KEEP_NEWEST: Final = """
DELETE FROM measured_attempts WHERE attempt_id IN (
    SELECT attempt_id FROM measured_attempts
    WHERE gpu_class = %(gpu_class)s AND base_model = %(base_model)s
    ORDER BY created_at DESC OFFSET %(kept)s)
"""


def record_attempt(conn: Connection, run: Run) -> None:
    """Record what the run's attempt took that has just ended; nothing where that is not known."""
    facts = {
        "run_id": run.run_id,
        "gpu_class": run.gpu_class,
        "base_model": run.base_model,
        "kept": _KEPT,
    }
    if conn.execute(_RECORD, facts).rowcount:
        conn.execute(_KEEP_NEWEST, facts)


_ATTEMPTS: Final = """
SELECT work, num_steps, step_s, start_s, checkpoint_s, end_s, total_s, process_s, charged_s
FROM newest_measured_attempts(%s, %s)
"""


def attempts(conn: Connection, gpu_class: str, base_model: str) -> list[MeasuredAttempt]:
    """The newest 200 attempts of all tenants, newest first."""
    with conn.cursor(row_factory=class_row(MeasuredAttempt)) as cursor:
        return cursor.execute(_ATTEMPTS, (gpu_class, base_model)).fetchall()


# A moving average of about the last 50 shards. Of the logarithm, so that a builder that had to load
# its models first does not dominate it.
_ENCODED: Final = """
INSERT INTO measured_encoding AS seen (base_model, kind, num_shards, ln_unit_s, deviation)
VALUES (%(base_model)s, %(kind)s, 1, %(ln_unit_s)s, 0.3)
ON CONFLICT (base_model, kind) DO UPDATE SET num_shards = seen.num_shards + 1,
    ln_unit_s = seen.ln_unit_s
        + (excluded.ln_unit_s - seen.ln_unit_s) / least(50, seen.num_shards + 1),
    deviation = seen.deviation
        + (abs(excluded.ln_unit_s - seen.ln_unit_s) - seen.deviation)
            / least(50, seen.num_shards + 1)
"""


def record_encoding(
    conn: Connection, base_model: str, kind: str, *, units: float, took_s: float
) -> None:
    """Record how long a shard took.

    Args:
        kind: of the shard.
        units: millions of pixels, or captions.
        took_s: seconds from its inputs in the object store to its file.
    """
    if units <= 0 or took_s <= 0:
        return
    ln_unit_s = math.log(took_s / units)
    conn.execute(_ENCODED, {"base_model": base_model, "kind": kind, "ln_unit_s": ln_unit_s})


_ENCODING: Final = """
SELECT kind, num_shards, ln_unit_s, deviation FROM measured_encoding WHERE base_model = %s
"""


def encoding(conn: Connection, base_model: str) -> Mapping[str, EncodingPace]:
    """Kind of shard → how long it takes, of all tenants."""
    return {
        kind: EncodingPace(num_shards=num_shards, ln_unit_s=ln_unit_s, deviation=deviation)
        for kind, num_shards, ln_unit_s, deviation in conn.execute(_ENCODING, (base_model,))
    }
