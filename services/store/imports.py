"""Imports: datasets whose files the service fetches itself, some rows of their source at a time.

The dataset is ``uploading`` meanwhile, and is completed or rejected at the end. A cache builder
takes an import under a lease, which raises its ``fence``; every later write carries the fence. A
portion of rows is written in two steps, because its files are stored in between: ``declare`` names
them, as a tenant's list does, and ``advance`` moves the position. A builder that dies repeats one
portion.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import Problem
from services.domain.failures import backoff
from services.domain.placement import BUILDER_LEASE
from services.domain.quotas import Quotas
from services.domain.storable_json import storable
from services.store import datasets, import_leftovers, quotas, tenants, webhook_events
from services.store.database import WORK, Connection, columns_of, notify, seconds
from services.store.datasets import FileFacts, NewFile

MAX_FAILURES: Final = 12
"""In a row, after which the import fails: with the pauses in between about half an hour."""
MAX_NAMED: Final = 100
"""Rows that are left out and are named; the others are counted."""
_FIRST_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One row of ``dataset_imports``, without the content of its list."""

    tenant_id: str
    dataset_id: str
    source: dict[str, Any]
    """A data backend, as in multidatabackend.json."""
    status: str
    """``importing``, ``imported`` or ``failed``."""
    position: dict[str, Any] | None
    """None: the start."""
    rows_done: int
    rows_total: int | None
    pictures: int
    left_out: int
    left_out_rows: list[dict[str, str]]
    """The first ones, each ``{row, message}``."""
    fetched_bytes: int
    failures: int
    fence: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """What some rows of the source gave."""

    files: Sequence[NewFile]
    facts: Sequence[FileFacts]
    """Of these files."""
    left_out: Sequence[dict[str, str]]
    position: dict[str, Any]
    """Behind the rows."""
    rows_done: int
    rows_total: int | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


_CREATE: Final = """
INSERT INTO dataset_imports (tenant_id, dataset_id, source, list, ring_after)
VALUES (%s, %s, %s, %s, clock_timestamp())
"""


def create(
    conn: Connection, tenant_id: str, dataset_id: str, source: dict[str, Any], list_: str | None
) -> None:
    """Have the files of a new dataset fetched.

    Args:
        source: a data backend, without secrets.
        list_: the content of its list, where that is sent.
    """
    conn.execute(_CREATE, (tenant_id, dataset_id, Jsonb(source), list_))
    notify(conn, WORK)


_FIND: Final = SQL("""
SELECT {columns} FROM dataset_imports WHERE tenant_id = %s AND dataset_id = ANY(%s)
""").format(columns=columns_of(Import))


def find(conn: Connection, tenant_id: str, dataset_ids: Sequence[str]) -> dict[str, Import]:
    """Dataset id → its import, of those that have one."""
    with conn.cursor(row_factory=class_row(Import)) as cursor:
        found = cursor.execute(_FIND, (tenant_id, list(dataset_ids))).fetchall()
    return {each.dataset_id: each for each in found}


# The failure is counted before the work, because a source may end the builder's process.
_TAKE: Final = SQL("""
UPDATE dataset_imports SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s), offered_until = NULL,
    failures = failures + 1, fence = fence + 1,
    started_at = coalesce(started_at, clock_timestamp())
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'importing'
    AND (lease_until IS NULL OR lease_until <= clock_timestamp())
RETURNING {columns}
""").format(columns=columns_of(Import))
_IS_OPEN: Final = """
SELECT true FROM datasets WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s
    AND status = 'uploading' AND deleted_at IS NULL
"""


def take(conn: Connection, tenant_id: str, dataset_id: str) -> Import | None:
    """Take the import if it is not over and no other builder works on it.

    One whose dataset is deleted or closed ends here, and so does one that failed too often.
    """
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id, "lease_s": seconds(BUILDER_LEASE)}
    with conn.cursor(row_factory=class_row(Import)) as cursor:
        taken = cursor.execute(_TAKE, facts).fetchone()
    if taken is None:
        return None
    if conn.execute(_IS_OPEN, facts).fetchone() is None:
        _end(conn, taken, "failed")
        return None
    if taken.failures > MAX_FAILURES:
        reject(conn, taken, _failing(taken))
        return None
    return taken


_LIST: Final = "SELECT list FROM dataset_imports WHERE tenant_id = %s AND dataset_id = %s"
_KEEP_LIST: Final = """
UPDATE dataset_imports SET list = %(list)s
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing' AND list IS NULL
"""


def read_list(conn: Connection, work: Import) -> str | None:
    """The content of the source's list; None where it has none, or it was not fetched yet."""
    row = conn.execute(_LIST, (work.tenant_id, work.dataset_id)).fetchone()
    return None if row is None else row[0]


def keep_list(conn: Connection, work: Import, content: str) -> None:
    """Keep the list that was fetched, so that all portions are read from the same one."""
    conn.execute(_KEEP_LIST, {**_key(work), "list": content})


_RENEW: Final = """
UPDATE dataset_imports SET
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing' AND lease_until > clock_timestamp()
"""


def renew(conn: Connection, work: Import) -> None:
    """Extend the lease while a portion takes its time; no change where it has run out."""
    conn.execute(_RENEW, {**_key(work), "lease_s": seconds(BUILDER_LEASE)})


_LOCK: Final = """
SELECT failures FROM dataset_imports
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing' FOR UPDATE
"""
_TOUCH: Final = """
UPDATE datasets SET updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s
    AND status = 'uploading' AND deleted_at IS NULL
"""
# A portion that is repeated may find other content at the same address.
_DECLARE: Final = """
INSERT INTO dataset_files (dataset_id, tenant_id, path, media, size_bytes, sha256)
SELECT %(dataset_id)s, %(tenant_id)s, file ->> 0, file ->> 1, (file ->> 2)::bigint, file ->> 3
FROM json_array_elements(%(files)s::json) AS file
ON CONFLICT (dataset_id, path) DO UPDATE SET size_bytes = excluded.size_bytes,
    sha256 = excluded.sha256
WHERE dataset_files.verified_by IS NULL
"""


def declare(conn: Connection, work: Import, portion: Portion, limits: Quotas) -> bool:
    """Name the files of a portion before they are stored; False where the import is over.

    From the commit on nobody deletes their contents: see ``abandoned_uploads.lock_unshared``.
    Raises QuotaExceededError where the tenant may not store as much; the transaction has to be
    rolled back then.
    """
    facts = _key(work)
    tenants.lock(conn, work.tenant_id)
    if not hold(conn, work) or not conn.execute(_TOUCH, facts).rowcount:
        return False
    quotas.check_growth(conn, work.tenant_id, limits, size_bytes=portion.size_bytes)
    rows = json.dumps([(f.path, f.media, f.size_bytes, f.sha256) for f in portion.files])
    import_leftovers.set_aside(conn, work.tenant_id, work.dataset_id, rows)
    conn.execute(_DECLARE, {**facts, "files": rows})
    return True


def hold(conn: Connection, work: Import) -> bool:
    """Whether this builder has the import still; then no other one takes it until the commit."""
    return conn.execute(_LOCK, _key(work)).fetchone() is not None


_ADVANCE: Final = SQL("""
UPDATE dataset_imports SET position = %(position)s, rows_done = %(rows_done)s,
    rows_total = %(rows_total)s, pictures = pictures + %(pictures)s,
    left_out = left_out + %(left_out)s, fetched_bytes = fetched_bytes + %(size_bytes)s,
    left_out_rows = left_out_rows || %(left_out_rows)s, failures = 1
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing' AND position IS NOT DISTINCT FROM %(before)s
RETURNING {columns}
""").format(columns=columns_of(Import))
_GROW: Final = """
UPDATE datasets SET size_bytes = size_bytes + %(size_bytes)s
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s
    AND status = 'uploading' AND deleted_at IS NULL
"""


def advance(conn: Connection, work: Import, portion: Portion, *, rules: int) -> Import | None:
    """The files of a portion are stored: go on behind it; None where the import is over.

    Args:
        rules: the number of the rules that the files were found good by.
    """
    room = max(0, MAX_NAMED - len(work.left_out_rows))
    facts = {
        **_key(work),
        "before": None if work.position is None else Jsonb(work.position),
        "position": Jsonb(portion.position),
        "rows_done": portion.rows_done,
        "rows_total": portion.rows_total,
        "pictures": sum(file.media == "image" for file in portion.files),
        "left_out": len(portion.left_out),
        "left_out_rows": Jsonb(list(portion.left_out[:room])),
        "size_bytes": portion.size_bytes,
    }
    with conn.cursor(row_factory=class_row(Import)) as cursor:
        advanced = cursor.execute(_ADVANCE, facts).fetchone()
    if advanced is None or not conn.execute(_GROW, facts).rowcount:
        return None
    datasets.set_facts(conn, work.tenant_id, work.dataset_id, portion.facts, rules=rules)
    return advanced


_GIVE_BACK: Final = """
UPDATE dataset_imports SET lease_until = NULL, failures = failures - %(forgiven)s,
    ring_after = clock_timestamp() + make_interval(secs => %(after_s)s)
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing'
"""


def put_back(conn: Connection, work: Import) -> None:
    """End this builder's turn with rows left: the import is due again, behind others."""
    _give_back(conn, work, after=timedelta(0), forgiven=1)
    notify(conn, WORK)


def postpone(conn: Connection, work: Import, *, after: timedelta) -> None:
    """Postpone the import, because of this machine or a store of the service; no failure."""
    _give_back(conn, work, after=after, forgiven=1)


def count_failure(conn: Connection, work: Import, problem: Problem) -> None:
    """Postpone for longer each time; the last time fails the import, and says why."""
    # Of the row: a portion that went well since the import was taken has ended the failures.
    row = conn.execute(_LOCK, _key(work)).fetchone()
    if row is None:
        return
    if row[0] >= MAX_FAILURES:
        reject(conn, work, problem)
        return
    after = backoff(row[0] - 1, first=_FIRST_PAUSE, limit=_LONGEST_PAUSE)
    _give_back(conn, work, after=after, forgiven=0)


def _give_back(conn: Connection, work: Import, *, after: timedelta, forgiven: int) -> None:
    conn.execute(_GIVE_BACK, {**_key(work), "after_s": seconds(after), "forgiven": forgiven})


_END: Final = """
UPDATE dataset_imports SET status = %(status)s, finished_at = clock_timestamp(), list = NULL,
    ring_after = NULL, offered_until = NULL, lease_until = NULL
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND fence = %(fence)s
    AND status = 'importing'
"""
# Declared by a portion that was then repeated, and found something else.
_DROP_UNSTORED: Final = """
DELETE FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND verified_by IS NULL
"""


def finish(conn: Connection, work: Import) -> bool:
    """All rows are done: complete the dataset, which goes on to its verification.

    False where the import has ended before.
    """
    if not _end(conn, work, "imported"):
        return False
    conn.execute(_DROP_UNSTORED, _key(work))
    datasets.complete(conn, work.tenant_id, work.dataset_id)
    return True


_REJECT: Final = """
UPDATE datasets SET status = 'rejected', size_bytes = 0, errors = %(errors)s,
    updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'uploading'
"""


def reject(conn: Connection, work: Import, problem: Problem) -> None:
    """The import has failed: its dataset is rejected, and the files that it has are deleted later.

    No change where the import has ended before.
    """
    if not _end(conn, work, "failed"):
        return
    conn.execute(_REJECT, {**_key(work), "errors": Jsonb([storable(asdict(problem))])})
    datasets.wake_runs(conn, work.tenant_id, work.dataset_id)
    webhook_events.announce_dataset(conn, work.tenant_id, work.dataset_id, status="rejected")


def _end(conn: Connection, work: Import, status: str) -> bool:
    return bool(conn.execute(_END, {**_key(work), "status": status}).rowcount)


def _failing(work: Import) -> Problem:
    message = (
        f"The service failed {MAX_FAILURES} times in a row while it imported this dataset, with"
        f" {work.rows_done} rows done. Import it again, or fetch it on your machine with `reverie"
        " datasets push CONFIG --backend ID`."
    )
    return Problem(pointer="", code="import_failed", message=message)


def _key(work: Import) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "dataset_id": work.dataset_id, "fence": work.fence}
