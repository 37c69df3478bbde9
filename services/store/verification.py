"""Verification of a completed dataset: its files in the order of their paths, a batch at a time.

A builder takes the dataset under a lease, records each batch, and gives it back. What a batch
showed is stored together with the path that it ended at, so a batch that two builders verified
counts once, and a builder that dies repeats one batch.

A file is not verified twice: its row tells by which rules it was found good (``verified_by``), also
where the dataset took the row over from another one, and what was found in the same content in any
dataset of the tenant counts. Rules of another number do not.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final, Literal

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import Problem
from services.domain.failures import VERIFICATION_FAILED, backoff
from services.domain.placement import BUILDER_LEASE
from services.store import datasets, webhook_events
from services.store.database import WORK, Connection, notify, seconds
from services.store.datasets import DatasetFile, FileFacts

MAX_FAILURES: Final = 5
"""Unexpected failures in a row after which the dataset is rejected."""
MAX_PROBLEMS: Final = 200
MAX_PROBLEM_BYTES: Final = 64 << 10
"""Verification stops with the batch that reaches one of the two limits."""
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """A dataset that this builder verifies, and how far that is."""

    tenant_id: str
    dataset_id: str
    num_files: int
    verified_files: int
    verified_to: str
    """Path of the last verified file; empty at the start."""
    verify_failures: int
    """Unexpected failures in a row; the attempt under way counts as one until it ends well."""
    num_problems: int
    problem_bytes: int

    @property
    def has_too_many_problems(self) -> bool:
        return self.num_problems >= MAX_PROBLEMS or self.problem_bytes >= MAX_PROBLEM_BYTES


_COLUMNS: Final = SQL("""
    tenant_id, dataset_id, coalesce(num_files, 0) AS num_files, verified_files, verified_to,
    verify_failures, jsonb_array_length(errors) AS num_problems,
    octet_length(errors::text) AS problem_bytes
""")
# The failure is counted before the work, because a file may end the builder's process.
_TAKE: Final = SQL("""
UPDATE datasets SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s),
    offered_until = NULL, verify_failures = verify_failures + 1
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
    AND (lease_until IS NULL OR lease_until <= clock_timestamp())
RETURNING {columns}
""").format(columns=_COLUMNS)


def take(conn: Connection, tenant_id: str, dataset_id: str) -> Verification | None:
    """Take the dataset if it waits for verification and no other builder verifies it."""
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id, "lease_s": seconds(BUILDER_LEASE)}
    with conn.cursor(row_factory=class_row(Verification)) as cursor:
        taken = cursor.execute(_TAKE, facts).fetchone()
    if taken is not None and taken.verify_failures > MAX_FAILURES:
        _reject_failing(conn, taken)
        return None
    return taken


_RENEW: Final = """
UPDATE datasets SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
    AND lease_until > clock_timestamp()
"""


def renew(conn: Connection, work: Verification) -> None:
    """Extend the lease while a batch takes its time; no change where it has run out."""
    conn.execute(_RENEW, {**_key(work), "lease_s": seconds(BUILDER_LEASE)})


@dataclass(frozen=True, kw_only=True, slots=True)
class NextFile(DatasetFile):
    """A file whose turn it is, with what is known of it."""

    known_from: Literal["row", "content"] | None
    """From its own row, or from the same content elsewhere; None: it has to be verified."""

    @property
    def facts(self) -> FileFacts:
        """What is known of it."""
        return FileFacts(
            path=self.path,
            width_px=self.width_px,
            height_px=self.height_px,
            lit=self.lit,
            text=self.text,
        )


# The files in the order of the primary key, so that reading may stop after any of them. A content
# that is damaged is verified anew (``forget``).
_NEXT_FILES: Final = """
SELECT path, media, size_bytes, sha256, known.width_px, known.height_px, known.lit, known.text,
    known_from
FROM dataset_files AS file LEFT JOIN LATERAL (
    SELECT NULL::integer AS width_px, NULL::integer AS height_px, NULL AS lit, NULL AS text,
        'row' AS known_from
    WHERE file.verified_by = %(rules)s
    UNION ALL
    SELECT same.width_px, same.height_px, same.lit, same.text, 'content'
    FROM dataset_files AS same JOIN datasets USING (dataset_id)
    WHERE same.tenant_id = %(tenant_id)s AND same.sha256 = file.sha256
        AND same.media = file.media AND same.size_bytes = file.size_bytes
        AND same.verified_by = %(rules)s AND datasets.deleted_at IS NULL
    LIMIT 1
) AS known ON true
WHERE file.tenant_id = %(tenant_id)s AND file.dataset_id = %(dataset_id)s
    AND file.path > %(verified_to)s
ORDER BY file.path
"""
_READ_AT_ONCE: Final = 64


def next_files(
    conn: Connection, work: Verification, *, rules: int
) -> Generator[NextFile, None, None]:
    """The files that follow those verified; none at the end.

    A caller may stop after any of them, and closes the generator then.

    Args:
        rules: the number of the rules that files have to be found good by.
    """
    facts = {**_key(work), "verified_to": work.verified_to, "rules": rules}
    with conn.cursor("next_files", row_factory=class_row(NextFile)) as cursor:
        cursor.itersize = _READ_AT_ONCE
        yield from cursor.execute(_NEXT_FILES, facts)


_RECORD: Final = SQL("""
UPDATE datasets SET verified_files = verified_files + %(num_files)s, verified_to = %(to)s,
    errors = errors || %(problems)s, verify_failures = 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
    AND verified_to = %(verified_to)s
RETURNING {columns}
""").format(columns=_COLUMNS)
_SET_FACTS: Final = """
UPDATE dataset_files SET width_px = (found ->> 1)::integer, height_px = (found ->> 2)::integer,
    lit = found ->> 3, text = found ->> 4, verified_by = (found ->> 5)::integer
FROM json_array_elements(%(found)s::json) AS found
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND path = found ->> 0
"""


def record(
    conn: Connection,
    work: Verification,
    batch: Sequence[NextFile],
    facts: Sequence[FileFacts],
    problems: Sequence[Problem],
    *,
    rules: int,
) -> Verification | None:
    """Store what a batch showed; None where another builder has stored it, or it is over.

    Args:
        batch: the files that follow those verified, in order.
        facts: what was measured in the good ones of those that had to be verified.
        problems: what is wrong with the others.
        rules: the number of the rules that they were verified by.
    """
    row = {
        **_key(work),
        "verified_to": work.verified_to,
        "num_files": len(batch),
        "to": batch[-1].path,
        "problems": Jsonb([asdict(problem) for problem in problems]),
    }
    with conn.cursor(row_factory=class_row(Verification)) as cursor:
        advanced = cursor.execute(_RECORD, row).fetchone()
    if advanced is not None:
        good = [*facts, *(file.facts for file in batch if file.known_from == "content")]
        # What older rules found in one that is bad by these does not stay.
        bad = {file.path for file in batch if file.known_from is None} - {f.path for f in facts}
        found = [
            *((f.path, f.width_px, f.height_px, f.lit, f.text, rules) for f in good),
            *((path, None, None, None, None, None) for path in bad),
        ]
        if found:
            conn.execute(_SET_FACTS, {**_key(work), "found": json.dumps(found)})
    return advanced


_FORGET: Final = """
UPDATE dataset_files SET verified_by = NULL
WHERE tenant_id = %s AND sha256 = %s AND verified_by IS NOT NULL
"""


def forget(conn: Connection, tenant_id: str, sha256: str) -> None:
    """The stored content is lost or damaged: the next dataset that lists it has it verified."""
    conn.execute(_FORGET, (tenant_id, sha256))


_ADD_PROBLEM: Final = """
UPDATE datasets SET errors = errors || %(problem)s
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
"""
_FINISH: Final = """
UPDATE datasets SET status = CASE WHEN errors = '[]' THEN 'ready' ELSE 'rejected' END,
    ring_after = NULL, offered_until = NULL, lease_until = NULL, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
RETURNING status
"""


def finish(conn: Connection, work: Verification) -> str | None:
    """Make the dataset ``ready``, or ``rejected`` where it has problems; returns which.

    Call it when no file is left, or when there are too many problems to go on. None where the
    verification has ended before.
    """
    if work.has_too_many_problems and work.verified_files < work.num_files:
        message = (
            f"Verification stopped after {work.num_problems} problems, with"
            f" {work.verified_files} of {work.num_files} files verified."
        )
        _add_problem(conn, work, Problem(pointer="", code="too_many_problems", message=message))
    row = conn.execute(_FINISH, _key(work)).fetchone()
    if row is None:
        return None
    datasets.wake_runs(conn, work.tenant_id, work.dataset_id)
    webhook_events.announce_dataset(conn, work.tenant_id, work.dataset_id, status=str(row[0]))
    return str(row[0])


_GIVE_BACK: Final = """
UPDATE datasets SET lease_until = NULL, verify_failures = %(failures)s,
    ring_after = clock_timestamp() + make_interval(secs => %(after_s)s)
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
"""


def put_back(conn: Connection, work: Verification) -> None:
    """End this builder's turn with files left: the dataset is due again, behind others."""
    _give_back(conn, work, after=timedelta(0), failures=0)
    notify(conn, WORK)


def postpone(conn: Connection, work: Verification, *, after: timedelta) -> None:
    """Postpone the verification, because a server cannot be reached; this is no failure."""
    _give_back(conn, work, after=after, failures=max(0, work.verify_failures - 1))


def count_failure(conn: Connection, work: Verification) -> None:
    """Postpone after an unexpected error, for longer each time; the fifth rejects the dataset."""
    if work.verify_failures >= MAX_FAILURES:
        _reject_failing(conn, work)
        return
    after = backoff(work.verify_failures - 1, first=_FIRST_PAUSE, limit=_LONGEST_PAUSE)
    _give_back(conn, work, after=after, failures=work.verify_failures)


def _give_back(conn: Connection, work: Verification, *, after: timedelta, failures: int) -> None:
    conn.execute(_GIVE_BACK, {**_key(work), "after_s": seconds(after), "failures": failures})


def _reject_failing(conn: Connection, work: Verification) -> None:
    message = (
        f"The service failed {MAX_FAILURES} times in a row while it verified this dataset, with"
        f" {work.verified_files} of {work.num_files} files verified. This is a fault of the"
        " service. Create the dataset again; files that are uploaded need not be sent again."
    )
    _add_problem(conn, work, Problem(pointer="", code=VERIFICATION_FAILED, message=message))
    finish(conn, work)


def _add_problem(conn: Connection, work: Verification, problem: Problem) -> None:
    conn.execute(_ADD_PROBLEM, {**_key(work), "problem": Jsonb([asdict(problem)])})


def _key(work: Verification) -> dict[str, str]:
    return {"tenant_id": work.tenant_id, "dataset_id": work.dataset_id}
