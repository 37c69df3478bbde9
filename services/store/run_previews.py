"""The newest preview of each run that is sampling a picture: one row, which is replaced."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.ledger import ChildEvent
from services.domain.previews import PREVIEW, StoredPreview, preview_of
from services.domain.states import Stage
from services.domain.storable_json import storable
from services.store.database import Connection, columns_of
from services.store.run_rows import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview(StoredPreview):
    """One row of ``run_previews``."""

    run_id: str
    fence: int
    """Of the attempt that made it; it names the object."""
    created_at: datetime


_IS_OF_PICTURE: Final = """
SELECT FROM run_previews
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
    AND picture = %(picture)s
"""
_PUT: Final = """
INSERT INTO run_previews (tenant_id, run_id, fence, step, picture, name, weights, seed, width_px,
    height_px, sampler_step, sampler_steps, size_bytes)
VALUES (%(tenant_id)s, %(run_id)s, %(fence)s, %(step)s, %(picture)s, %(name)s, %(weights)s,
    %(seed)s, %(width_px)s, %(height_px)s, %(sampler_step)s, %(sampler_steps)s, %(size_bytes)s)
ON CONFLICT (run_id) DO UPDATE SET fence = excluded.fence, step = excluded.step,
    picture = excluded.picture, name = excluded.name, weights = excluded.weights,
    seed = excluded.seed, width_px = excluded.width_px, height_px = excluded.height_px,
    sampler_step = excluded.sampler_step, sampler_steps = excluded.sampler_steps,
    size_bytes = excluded.size_bytes, created_at = clock_timestamp()
    WHERE run_previews.tenant_id = excluded.tenant_id
"""
_REMOVE: Final = "DELETE FROM run_previews WHERE tenant_id = %s AND run_id = %s"


def record(
    conn: Connection, run: Run, events: Sequence[ChildEvent], *, entered: Stage | None
) -> list[ChildEvent]:
    """Keep the newest preview that these events tell of; returns the events to append.

    The run's row is locked, and its holder has stored the file. A stage that begins removes the
    preview of before, and one that arrives after its stage has ended is ignored. Of the previews of
    a picture only the first one is an event of the run: there are many.

    Args:
        entered: the stage that the events enter last; None: the run stays in its own.
    """
    if entered is not None:
        conn.execute(_REMOVE, (run.tenant_id, run.run_id))
    is_sampling = (entered or run.stage) == Stage.SAMPLING
    return [
        event
        for event in events
        if event.type != PREVIEW or (is_sampling and _is_first(conn, run, event))
    ]


def _is_first(conn: Connection, run: Run, event: ChildEvent) -> bool:
    """Keep this preview; whether it is the first one of its picture."""
    try:
        preview = preview_of(event)
    except ValueError:
        return False
    facts = {
        "tenant_id": run.tenant_id,
        "run_id": run.run_id,
        "fence": run.fence,
        **storable(asdict(preview)),
    }
    is_known = conn.execute(_IS_OF_PICTURE, facts).fetchone() is not None
    conn.execute(_PUT, facts)
    return not is_known


# The preview of an attempt that has ended may be deleted at any time.
_FIND: Final = SQL("""
SELECT {columns} FROM run_previews
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = (
    SELECT fence FROM runs
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND lease_until IS NOT NULL)
""").format(columns=columns_of(Preview))


def find(conn: Connection, tenant_id: str, run_id: str) -> Preview | None:
    """Of the picture that the run is sampling; None where it samples none, or makes no previews."""
    with conn.cursor(row_factory=class_row(Preview)) as cursor:
        return cursor.execute(_FIND, {"tenant_id": tenant_id, "run_id": run_id}).fetchone()
