"""Pictures of runs: those made while they train, each a row, and the one in the result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.ledger import ChildEvent, PictureScore
from services.domain.samples import (
    MAX_SAMPLES,
    MAX_SAMPLES_BYTES,
    SAMPLES_FULL,
    StoredSample,
    is_picture,
    sample_of,
    without_file,
)
from services.domain.storable_json import storable
from services.store.database import Connection, columns_of
from services.store.run_rows import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample(StoredSample):
    """One row of ``run_samples``; its path is among the artifacts of the run."""

    run_id: str
    fence: int
    """Of the attempt that made it; with the SHA-256 it names the object."""
    created_at: datetime


_COLUMNS: Final = columns_of(Sample)
_OTHERS: Final = """
SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM run_samples
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND path <> %(path)s
"""
# The file of an attempt before is not referenced any more; the sweep deletes it.
_PUT: Final = """
INSERT INTO run_samples (tenant_id, run_id, step, path, fence, name, prompt, weights, width_px,
    height_px, seed, sampler_steps, guidance, size_bytes, sha256, clip_score, similarity,
    clip_model_digest)
VALUES (%(tenant_id)s, %(run_id)s, %(step)s, %(path)s, %(fence)s, %(name)s, %(prompt)s,
    %(weights)s, %(width_px)s, %(height_px)s, %(seed)s, %(sampler_steps)s, %(guidance)s,
    %(size_bytes)s, %(sha256)s, %(clip_score)s, %(similarity)s, %(clip_model_digest)s)
ON CONFLICT (run_id, path) DO UPDATE SET step = excluded.step, fence = excluded.fence,
    name = excluded.name, prompt = excluded.prompt, weights = excluded.weights,
    width_px = excluded.width_px, height_px = excluded.height_px, seed = excluded.seed,
    sampler_steps = excluded.sampler_steps, guidance = excluded.guidance,
    size_bytes = excluded.size_bytes, sha256 = excluded.sha256, clip_score = excluded.clip_score,
    similarity = excluded.similarity, clip_model_digest = excluded.clip_model_digest,
    created_at = clock_timestamp()
    WHERE (run_samples.fence, run_samples.sha256) <> (excluded.fence, excluded.sha256)
"""


def record(conn: Connection, run: Run, events: Sequence[ChildEvent]) -> list[ChildEvent]:
    """Make rows of the pictures that these events tell of; returns the events to append.

    The run's row is locked, and its holder has stored the files. An event of a picture beyond the
    run's limits, or that says something else than such an event does, loses its path and gets no
    row. A warning follows the last picture.
    """
    recorded: list[ChildEvent] = []
    for event in events:
        recorded += _record(conn, run, event) if is_picture(event.type, event.data) else [event]
    return recorded


def _record(conn: Connection, run: Run, event: ChildEvent) -> list[ChildEvent]:
    try:
        sample = sample_of(event)
    except ValueError:
        return [without_file(event)]
    facts = {
        "tenant_id": run.tenant_id,
        "run_id": run.run_id,
        "fence": run.fence,
        **storable(asdict(sample)),
    }
    row = conn.execute(_OTHERS, facts).fetchone()
    assert row is not None
    if _is_full(*row):
        return [without_file(event)]
    conn.execute(_PUT, facts)
    if not _is_full(row[0] + 1, row[1] + sample.size_bytes):
        return [event]
    warning = {"code": "samples_full", "message": SAMPLES_FULL}
    return [event, ChildEvent(type="warning", step=event.step, data=warning)]


def _is_full(num_samples: int, size_bytes: int) -> bool:
    return num_samples >= MAX_SAMPLES or size_bytes >= MAX_SAMPLES_BYTES


_PAGE: Final = SQL("""
SELECT {columns} FROM run_samples
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
    AND (%(step)s::integer IS NULL OR step = %(step)s)
    AND (%(name)s::text IS NULL OR name = %(name)s)
    AND (%(after_path)s::text IS NULL OR step < %(after_step)s
        OR (step = %(after_step)s AND path > %(after_path)s COLLATE "C"))
ORDER BY step DESC, path COLLATE "C" LIMIT %(limit)s
""").format(columns=_COLUMNS)


def page(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    *,
    step: int | None,
    name: str | None,
    after: tuple[int, str] | None,
    limit: int,
) -> list[Sample]:
    """Pictures of a run, those of the newest step first.

    Args:
        step: only those of this step.
        name: only those of the prompt of this name.
        after: step and path of the last one of the page before.
    """
    after_step, after_path = after or (None, None)
    facts = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "step": step,
        "name": name,
        "after_step": after_step,
        "after_path": after_path,
        "limit": limit,
    }
    with conn.cursor(row_factory=class_row(Sample)) as cursor:
        return cursor.execute(_PAGE, facts).fetchall()


_UP_TO: Final = SQL("""
SELECT {columns} FROM run_samples
WHERE tenant_id = %s AND run_id = %s AND step <= %s
ORDER BY step, created_at, path COLLATE "C"
""").format(columns=_COLUMNS)


def up_to(conn: Connection, tenant_id: str, run_id: str, step: int) -> list[Sample]:
    """All pictures of a run up to this step, at most MAX_SAMPLES, in the order of making."""
    with conn.cursor(row_factory=class_row(Sample)) as cursor:
        return cursor.execute(_UP_TO, (tenant_id, run_id, step)).fetchall()


_FIND: Final = SQL("""
SELECT {columns} FROM run_samples
WHERE tenant_id = %s AND run_id = %s AND path = %s
""").format(columns=_COLUMNS)


def find(conn: Connection, tenant_id: str, run_id: str, path: str) -> Sample | None:
    """The picture of this path; None where there is none."""
    with conn.cursor(row_factory=class_row(Sample)) as cursor:
        return cursor.execute(_FIND, (tenant_id, run_id, path)).fetchone()


# An attempt before the one that wrote the checkpoint may have made pictures of other weights at its
# step.
_MADE_BEFORE: Final = """
SELECT path, clip_score, similarity, clip_model_digest FROM run_samples AS made
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND (
    EXISTS (
        SELECT FROM checkpoints
        WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
            AND step = made.step AND fence <= made.fence)
    OR step = 0 AND NOT EXISTS (
        SELECT FROM checkpoints WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s))
ORDER BY path COLLATE "C"
"""


def made_before(conn: Connection, tenant_id: str, run_id: str) -> dict[str, PictureScore | None]:
    """Paths of the pictures that an attempt need not make again where it starts, with their scores.

    Those show the weights of a checkpoint, or, of a run without one, those of step 0.
    """
    rows = conn.execute(_MADE_BEFORE, {"tenant_id": tenant_id, "run_id": run_id})
    return {
        path: None
        if score is None or digest is None
        else PictureScore(clip_score=score, similarity=near, clip_model_digest=digest)
        for path, score, near, digest in rows
    }


# Events of pictures that were made while it trained name the weights, stored or not.
_NEWEST_PROMPT: Final = """
SELECT data->>'prompt' FROM events
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND type = 'sample'
    AND NOT data ? 'weights' AND seq > (
    SELECT event_seq - 100 FROM runs WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s)
ORDER BY seq DESC LIMIT 1
"""


def newest_prompt(conn: Connection, tenant_id: str, run_id: str) -> str | None:
    """Of the picture that a finished run made at its end; None where it has no prompt."""
    facts = {"tenant_id": tenant_id, "run_id": run_id}
    row = conn.execute(_NEWEST_PROMPT, facts).fetchone()
    return None if row is None else row[0]
