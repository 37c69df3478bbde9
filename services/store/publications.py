"""Publications: a result that is copied to a folder or to the Hub, with its own retries."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import InvalidRequestError, LeaseLostError, NotFoundError, Problem
from services.domain.ids import new_id
from services.domain.ledger import StoredFiles
from services.store import runs
from services.store.database import WORK, Connection, columns_of, notify, seconds
from trainer_core.process.failure import Failure, failure_as_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """One row of ``publications``."""

    publication_id: str
    tenant_id: str
    run_id: str
    target: dict[str, Any]
    """``{"kind": "folder"}`` or ``{"kind": "hub", "repo_id": …, "private": …, "secret": …}``."""
    status: str
    """``pending``, ``running``, ``succeeded`` or ``failed``."""
    attempts: int
    location: str | None
    """Folder or URL once succeeded."""
    revision: str | None
    error: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicationWork:
    """A publication that this process has claimed, with the run's result."""

    publication_id: str
    tenant_id: str
    run_id: str
    fence: int
    target: dict[str, Any]
    attempts: int
    """Number of tries, this one included."""
    result_key_prefix: str
    result_manifest_sha256: str
    result_size_bytes: int
    result_step: int

    @property
    def result(self) -> StoredFiles:
        """The files of the result."""
        return StoredFiles(
            key_prefix=self.result_key_prefix,
            manifest_sha256=self.result_manifest_sha256,
            size_bytes=self.result_size_bytes,
        )


_CREATE: Final = SQL("""
INSERT INTO publications (publication_id, tenant_id, run_id, target, status, ring_after)
VALUES (%s, %s, %s, %s, 'pending', clock_timestamp())
RETURNING {columns}
""").format(columns=columns_of(Publication))


def create(conn: Connection, tenant_id: str, run_id: str, target: dict[str, Any]) -> Publication:
    """A new publication of a run that succeeded.

    Raises NotFoundError, and InvalidRequestError where the run has no result.
    """
    run = runs.get(conn, tenant_id, run_id)
    if run.result_manifest_sha256 is None:
        problem = Problem(
            pointer="/run_id", code="no_result", message=f"{run_id} has no result to publish."
        )
        raise InvalidRequestError([problem])
    return insert(conn, tenant_id, run_id, target)


def insert(conn: Connection, tenant_id: str, run_id: str, target: dict[str, Any]) -> Publication:
    """A new publication of a run that is known to have a result."""
    facts = (new_id("pub"), tenant_id, run_id, Jsonb(target))
    with conn.cursor(row_factory=class_row(Publication)) as cursor:
        publication = cursor.execute(_CREATE, facts).fetchone()
    assert publication is not None
    notify(conn, WORK)
    return publication


_GET: Final = SQL("""
SELECT {columns} FROM publications WHERE tenant_id = %s AND publication_id = %s
""").format(columns=columns_of(Publication))


def get(conn: Connection, tenant_id: str, publication_id: str) -> Publication:
    """Raises NotFoundError."""
    with conn.cursor(row_factory=class_row(Publication)) as cursor:
        publication = cursor.execute(_GET, (tenant_id, publication_id)).fetchone()
    if publication is None:
        raise NotFoundError("publication", publication_id)
    return publication


_LIST: Final = SQL("""
SELECT {columns} FROM publications
WHERE tenant_id = %(tenant_id)s AND (%(after)s::text IS NULL OR publication_id < %(after)s)
    AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
ORDER BY publication_id DESC LIMIT %(limit)s
""").format(columns=columns_of(Publication))


def list_page(
    conn: Connection,
    tenant_id: str,
    limit: int,
    after: str | None = None,
    *,
    run_id: str | None = None,
) -> list[Publication]:
    """Newest first, of one run or of all; ``after`` is the last id of the page before."""
    facts = {"tenant_id": tenant_id, "limit": limit, "after": after, "run_id": run_id}
    with conn.cursor(row_factory=class_row(Publication)) as cursor:
        return cursor.execute(_LIST, facts).fetchall()


# The lease is never renewed, so it must be longer than one try. An expired one may be claimed: both
# targets accept the same content twice.
_CLAIM: Final = SQL("""
WITH claimed AS (
    UPDATE publications SET status = 'running', fence = fence + 1, attempts = attempts + 1,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
        ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s),
        updated_at = clock_timestamp()
    WHERE publication_id = %(publication_id)s AND (%(tenant_id)s::text IS NULL
            OR tenant_id = %(tenant_id)s)
        AND (status = 'pending' OR (status = 'running' AND lease_until < clock_timestamp()))
    RETURNING publication_id, tenant_id, run_id, fence, target, attempts
)
SELECT {columns} FROM claimed JOIN (
    SELECT run_id, tenant_id, result_key_prefix, result_manifest_sha256, result_size_bytes,
        result_step
    FROM runs WHERE result_manifest_sha256 IS NOT NULL
) AS result USING (run_id, tenant_id)
""").format(columns=columns_of(PublicationWork))


def claim(
    conn: Connection, publication_id: str, lease: timedelta, *, tenant_id: str | None = None
) -> PublicationWork | None:
    """Claim a due publication; None where another process holds it or it has ended."""
    facts = {
        "publication_id": publication_id,
        "tenant_id": tenant_id,
        "lease_s": seconds(lease),
    }
    with conn.cursor(row_factory=class_row(PublicationWork)) as cursor:
        return cursor.execute(_CLAIM, facts).fetchone()


_SUCCEED: Final = """
UPDATE publications SET status = 'succeeded', location = %s, revision = %s, error = NULL,
    lease_until = NULL, ring_after = NULL, updated_at = clock_timestamp()
WHERE publication_id = %s AND fence = %s AND status = 'running'
RETURNING true
"""


def succeed(
    conn: Connection, publication_id: str, fence: int, location: str, revision: str | None
) -> None:
    """Record the success. Raises LeaseLostError where another process claimed it meanwhile."""
    row = conn.execute(_SUCCEED, (location, revision, publication_id, fence)).fetchone()
    if row is None:
        raise LeaseLostError(run_id=publication_id, fence=fence)


_FAIL: Final = """
UPDATE publications SET status = %s, error = %s, lease_until = NULL,
    ring_after = clock_timestamp() + make_interval(secs => %s), updated_at = clock_timestamp()
WHERE publication_id = %s AND fence = %s AND status = 'running'
RETURNING true
"""


def fail(
    conn: Connection,
    publication_id: str,
    fence: int,
    error: Failure,
    retry_after: timedelta | None,
) -> None:
    """Record a failed try; repeat it after ``retry_after``, or never. Raises LeaseLostError."""
    status = "failed" if retry_after is None else "pending"
    delay_s = None if retry_after is None else seconds(retry_after)
    facts = (status, Jsonb(failure_as_json(error)), delay_s, publication_id, fence)
    if conn.execute(_FAIL, facts).fetchone() is None:
        raise LeaseLostError(run_id=publication_id, fence=fence)


def target_of(plan: Mapping[str, Any], hub_secret: str | None = None) -> dict[str, Any]:
    """The publication target of a plan; a Hub repository is private unless the plan disables it.

    ``hub_secret``: name of the secret that publishes there; None: the service's own token.
    """
    requested = plan["operation"]["publication"]
    name = requested["hub_model_id"]
    if name is None:
        return {"kind": "folder"}
    private = requested.get("private", True)
    return {"kind": "hub", "repo_id": name, "private": private, "secret": hub_secret}
