"""Verification of a completed dataset: its files in the order of their paths, a batch at a time.

A builder takes the dataset under a lease, records each batch, and gives it back. What a batch
showed is stored together with the path that it ended at, so a batch that two builders verified
counts once, and a builder that dies repeats one batch.

A file is not verified twice: its row tells by which rules it was verified (``verified_by``), also
where the dataset took the row over from another one, and what was found in the same good content in
any dataset of the tenant counts. Rules of another number do not.

A picture or caption that cannot be used is left out, and its row says why. The dataset is rejected
where more than half of its pictures are, or where a file is not what was declared.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Final, Literal

from psycopg import sql
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
MAX_LEFT_OUT_SHOWN: Final = 20
"""Files that are left out and shown with the dataset; the list of its files has all of them."""
DECODING_LIMIT: Final = "decoding_limit"
"""The code of pictures that take too much time or memory; each costs up to a minute."""
MAX_DECODING_LIMIT: Final = 100
"""So many of them are left out; one more is a problem, with which verification stops."""
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
    num_left_out: int
    num_shown: int
    """Of those left out."""
    is_too_slow: bool
    """More pictures than ``MAX_DECODING_LIMIT`` take too long."""

    @property
    def has_too_many_problems(self) -> bool:
        return (
            self.num_problems >= MAX_PROBLEMS
            or self.problem_bytes >= MAX_PROBLEM_BYTES
            or self.is_too_slow
        )


_COLUMNS: Final = SQL("""
    tenant_id, dataset_id, coalesce(num_files, 0) AS num_files, verified_files, verified_to,
    verify_failures, jsonb_array_length(errors) AS num_problems,
    octet_length(errors::text) AS problem_bytes, num_left_out,
    jsonb_array_length(left_out) AS num_shown, errors @> {too_slow} AS is_too_slow
""").format(too_slow=sql.Literal(json.dumps([{"code": DECODING_LIMIT}])))
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

    @property
    def known_problem(self) -> Problem | None:
        """Why it is left out, if that is known from its own row."""
        if self.known_from is None or self.left_out is None:
            return None
        return Problem(pointer=self.path, **self.left_out)


# The files in the order of the primary key, so that reading may stop after any of them. A content
# that is damaged is verified anew (``forget``).
_NEXT_FILES: Final = """
SELECT path, media, size_bytes, sha256, known.width_px, known.height_px, known.lit, known.text,
    known.left_out, known_from
FROM dataset_files AS file LEFT JOIN LATERAL (
    SELECT NULL::integer AS width_px, NULL::integer AS height_px, NULL AS lit, NULL AS text,
        file.left_out, 'row' AS known_from
    WHERE file.verified_by = %(rules)s
    UNION ALL
    SELECT same.width_px, same.height_px, same.lit, same.text, NULL, 'content'
    FROM dataset_files AS same JOIN datasets USING (dataset_id)
    WHERE same.tenant_id = %(tenant_id)s AND same.sha256 = file.sha256
        AND same.media = file.media AND same.size_bytes = file.size_bytes
        AND same.verified_by = %(rules)s AND same.left_out IS NULL AND datasets.deleted_at IS NULL
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
        rules: the number of the rules that files have to be verified by.
    """
    facts = {**_key(work), "verified_to": work.verified_to, "rules": rules}
    with conn.cursor("next_files", row_factory=class_row(NextFile)) as cursor:
        cursor.itersize = _READ_AT_ONCE
        yield from cursor.execute(_NEXT_FILES, facts)


_RECORD: Final = SQL("""
UPDATE datasets SET verified_files = verified_files + %(num_files)s, verified_to = %(to)s,
    errors = errors || %(problems)s, num_left_out = num_left_out + %(num_left_out)s,
    left_out = left_out || %(shown)s, verify_failures = 1, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
    AND verified_to = %(verified_to)s
RETURNING {columns}
""").format(columns=_COLUMNS)


def record(
    conn: Connection,
    work: Verification,
    batch: Sequence[NextFile],
    facts: Sequence[FileFacts],
    problems: Sequence[Problem],
    *,
    rules: int,
    left_out: Sequence[Problem] = (),
) -> Verification | None:
    """Store what a batch showed; None where another builder has stored it, or it is over.

    Args:
        batch: the files that follow those verified, in order.
        facts: what was measured in the good ones of those that had to be verified.
        problems: what is wrong with others of those, so that the dataset is rejected.
        rules: the number of the rules that they were verified by.
        left_out: why the rest of those cannot be used.
    """
    known = [problem for file in batch if (problem := file.known_problem) is not None]
    unusable = sorted([*known, *left_out], key=lambda problem: problem.pointer)
    room = max(0, MAX_LEFT_OUT_SHOWN - work.num_shown)
    row = {
        **_key(work),
        "verified_to": work.verified_to,
        "num_files": len(batch),
        "to": batch[-1].path,
        "problems": Jsonb([asdict(problem) for problem in problems]),
        "num_left_out": len(unusable),
        "shown": Jsonb([asdict(problem) for problem in unusable[:room]]),
    }
    with conn.cursor(row_factory=class_row(Verification)) as cursor:
        advanced = cursor.execute(_RECORD, row).fetchone()
    if advanced is not None:
        found = [
            *facts,
            *(
                FileFacts(path=p.pointer, left_out={"code": p.code, "message": p.message})
                for p in left_out
            ),
        ]
        # What older rules found in one that is bad by these does not stay.
        wrong = {file.path for file in batch if file.known_from is None} - {f.path for f in found}
        found += [file.facts for file in batch if file.known_from == "content"]
        note = partial(datasets.set_facts, conn, work.tenant_id, work.dataset_id)
        note(found, rules=rules)
        note([FileFacts(path=path) for path in wrong], rules=None)
    return advanced


_FORGET: Final = """
UPDATE dataset_files SET verified_by = NULL
WHERE tenant_id = %s AND sha256 = %s AND verified_by IS NOT NULL
"""


def forget(conn: Connection, tenant_id: str, sha256: str) -> None:
    """The stored content is lost or damaged: the next dataset that lists it has it verified."""
    conn.execute(_FORGET, (tenant_id, sha256))


_COUNT_SLOW: Final = """
SELECT count(*) FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND left_out ->> 'code' = %(code)s
"""


def has_room_for_slow(conn: Connection, work: Verification) -> bool:
    """Whether one more picture that takes too long can be left out."""
    row = conn.execute(_COUNT_SLOW, {**_key(work), "code": DECODING_LIMIT}).fetchone()
    assert row is not None
    return int(row[0]) < MAX_DECODING_LIMIT


_ADD_PROBLEMS: Final = """
UPDATE datasets SET errors = errors || %(problems)s
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
"""
_FINISH: Final = """
UPDATE datasets SET status = CASE WHEN errors = '[]' THEN 'ready' ELSE 'rejected' END,
    ring_after = NULL, offered_until = NULL, lease_until = NULL, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'verifying'
RETURNING status
"""


def finish(conn: Connection, work: Verification) -> str | None:
    """Make the dataset ``ready``, or ``rejected``; returns which.

    It is rejected where it has problems, or more than half of its pictures cannot be used. Call it
    when no file is left, or when there are too many problems to go on. None where the verification
    has ended before.
    """
    mostly = _mostly_unusable(conn, work) if work.num_left_out else None
    if mostly is not None or work.num_problems:
        _add_problems(conn, work, _left_out_problems(conn, work))
    if mostly is not None:
        _add_problems(conn, work, [mostly])
    if work.has_too_many_problems and work.verified_files < work.num_files:
        message = (
            f"Verification stopped after {work.num_problems} problems, with"
            f" {work.verified_files} of {work.num_files} files verified."
        )
        _add_problems(conn, work, [Problem(pointer="", code="too_many_problems", message=message)])
    row = conn.execute(_FINISH, _key(work)).fetchone()
    if row is None:
        return None
    datasets.wake_runs(conn, work.tenant_id, work.dataset_id)
    webhook_events.announce_dataset(conn, work.tenant_id, work.dataset_id, status=str(row[0]))
    return str(row[0])


_COUNT_IMAGES: Final = """
SELECT count(*), count(*) FILTER (WHERE left_out IS NOT NULL) FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND media = 'image'
"""
_LEFT_OUT: Final = """
SELECT path, left_out ->> 'code', left_out ->> 'message' FROM dataset_files
WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND left_out IS NOT NULL
ORDER BY path LIMIT %(limit)s
"""


def _mostly_unusable(conn: Connection, work: Verification) -> Problem | None:
    """The problem of a dataset most of whose pictures cannot be used; None: that is not so."""
    row = conn.execute(_COUNT_IMAGES, _key(work)).fetchone()
    assert row is not None
    images, unusable = row
    if 2 * unusable <= images:
        return None
    message = (
        f"{unusable} of {images} images cannot be used. Up to half of them would be left out; with"
        " more, the dataset is taken for a wrong folder or a failed download."
    )
    return Problem(pointer="", code="mostly_unusable", message=message)


def _left_out_problems(conn: Connection, work: Verification) -> list[Problem]:
    """Files that are left out, as problems of a rejected dataset, within the limits on those."""
    found: list[Problem] = []
    size_bytes = work.problem_bytes
    room = max(0, MAX_PROBLEMS - work.num_problems)
    for path, code, message in conn.execute(_LEFT_OUT, {**_key(work), "limit": room}):
        size_bytes += len(message.encode()) + len(path.encode())
        if found and size_bytes > MAX_PROBLEM_BYTES:
            break
        found.append(Problem(pointer=path, code=code, message=message))
    return found


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
    _add_problems(conn, work, [Problem(pointer="", code=VERIFICATION_FAILED, message=message)])
    finish(conn, work)


def _add_problems(conn: Connection, work: Verification, problems: Sequence[Problem]) -> None:
    conn.execute(
        _ADD_PROBLEMS, {**_key(work), "problems": Jsonb([asdict(each) for each in problems])}
    )


def _key(work: Verification) -> dict[str, str]:
    return {"tenant_id": work.tenant_id, "dataset_id": work.dataset_id}
