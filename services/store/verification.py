"""Verification of a completed dataset: its files in the order of their paths, a batch at a time.

A builder takes the dataset under a lease, records each batch, and gives it back. What a batch
showed is stored together with the path that it ended at, so a batch that two builders verified
counts once, and a builder that dies repeats one batch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import Problem
from services.domain.failures import VERIFICATION_FAILED, backoff
from services.domain.placement import BUILDER_LEASE
from services.store import datasets, webhook_events
from services.store.database import WORK, Connection, columns_of, notify, seconds
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


_NEXT_FILES: Final = SQL("""
SELECT {columns} FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s AND path > %s
ORDER BY path LIMIT %s
""").format(columns=columns_of(DatasetFile))


def next_files(conn: Connection, work: Verification, limit: int) -> list[DatasetFile]:
    """The files that follow those verified; none at the end."""
    facts = (work.tenant_id, work.dataset_id, work.verified_to, limit)
    with conn.cursor(row_factory=class_row(DatasetFile)) as cursor:
        return cursor.execute(_NEXT_FILES, facts).fetchall()


_RECORD: Final = SQL("""
UPDATE datasets SET verified_files = verified_files + %(num_files)s, verified_to = %(to)s,
    errors = errors || %(problems)s, verify_failures = 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
    AND verified_to = %(verified_to)s
RETURNING {columns}
""").format(columns=_COLUMNS)
_SET_FACTS: Final = """
UPDATE dataset_files SET width_px = %s, height_px = %s, text = %s
WHERE tenant_id = %s AND dataset_id = %s AND path = %s
"""


def record(
    conn: Connection,
    work: Verification,
    batch: Sequence[DatasetFile],
    facts: Sequence[FileFacts],
    problems: Sequence[Problem],
) -> Verification | None:
    """Store what a batch showed; None where another builder has stored it, or it is over.

    Args:
        batch: the files that follow those verified, in order.
        facts: what was measured in the good ones.
        problems: what is wrong with the others.
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
        with conn.cursor() as cursor:
            cursor.executemany(
                _SET_FACTS,
                [
                    (f.width_px, f.height_px, f.text, work.tenant_id, work.dataset_id, f.path)
                    for f in facts
                ],
            )
    return advanced


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
