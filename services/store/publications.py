"""Publications: copies of results and checkpoints to a folder or the Hub, with own retries."""

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
from services.store import automatic_publications, run_documents, runs, webhook_events
from services.store.database import WORK, Connection, columns_of, notify, seconds
from services.traces.spans import current_traceparent
from trainer_core.process.failure import Failure, failure_as_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """One row of ``publications``."""

    publication_id: str
    tenant_id: str
    run_id: str
    checkpoint_step: int | None
    """None: of the result."""
    is_automatic: bool
    """The run made it of its own accord; a newer one of these takes its place while it waits."""
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
    """A publication that this process has claimed, with the files to publish."""

    publication_id: str
    tenant_id: str
    run_id: str
    checkpoint_step: int | None
    is_automatic: bool
    fence: int
    target: dict[str, Any]
    attempts: int
    """Number of tries, this one included."""
    step: int | None
    """Of the result or the checkpoint; None, as the next three, where it is gone."""
    key_prefix: str | None
    manifest_sha256: str | None
    size_bytes: int | None

    @property
    def files(self) -> StoredFiles | None:
        """None where the checkpoint is gone."""
        if self.key_prefix is None or self.manifest_sha256 is None or self.size_bytes is None:
            return None
        return StoredFiles(
            key_prefix=self.key_prefix,
            manifest_sha256=self.manifest_sha256,
            size_bytes=self.size_bytes,
        )


_CREATE: Final = SQL("""
INSERT INTO publications (publication_id, tenant_id, run_id, checkpoint_step, is_automatic, target,
    status, ring_after, traceparent)
SELECT %(publication_id)s, tenant_id, run_id, %(checkpoint_step)s::integer, %(is_automatic)s,
    %(target)s, 'pending', clock_timestamp(), coalesce(%(traceparent)s, traceparent)
FROM runs WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
RETURNING {columns}
""").format(columns=columns_of(Publication))
_FIND_CHECKPOINT: Final = """
SELECT true FROM checkpoints WHERE tenant_id = %s AND run_id = %s AND step = %s
"""


def create(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    target: dict[str, Any],
    *,
    checkpoint_step: int | None = None,
) -> Publication:
    """A new publication of a run's result or, where a step is given, of a checkpoint.

    Raises NotFoundError, and InvalidRequestError where there is no such thing, or nothing that can
    be used by itself.
    """
    run = runs.get(conn, tenant_id, run_id)
    if checkpoint_step is not None:
        _check_checkpoint(conn, tenant_id, run_id, checkpoint_step)
    elif run.result_manifest_sha256 is None:
        raise _refused("/run_id", "no_result", f"{run_id} has no result to publish.")
    return insert(conn, tenant_id, run_id, target, checkpoint_step=checkpoint_step)


def _check_checkpoint(conn: Connection, tenant_id: str, run_id: str, step: int) -> None:
    if conn.execute(_FIND_CHECKPOINT, (tenant_id, run_id, step)).fetchone() is None:
        message = f"{run_id} has no checkpoint of step {step}."
        raise _refused("/checkpoint_step", "no_checkpoint", message)
    plan = run_documents.read_plan(conn, tenant_id, run_id)
    if plan["identity"]["adapter"] is None:
        message = (
            "A checkpoint of full-rank training holds the state of the training and no model that "
            "can be loaded. Publish the result."
        )
        raise _refused("/checkpoint_step", "refused", message)


def _refused(pointer: str, code: str, message: str) -> InvalidRequestError:
    return InvalidRequestError([Problem(pointer=pointer, code=code, message=message)])


def insert(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    target: dict[str, Any],
    *,
    checkpoint_step: int | None = None,
    is_automatic: bool = False,
) -> Publication:
    """A new publication of what is known to be there: a result, or a checkpoint.

    It goes on with the trace of what asks for it, or else of its run. An automatic one ends those
    of the run's checkpoints that still wait.
    """
    facts = {
        "publication_id": new_id("pub"),
        "tenant_id": tenant_id,
        "run_id": run_id,
        "checkpoint_step": checkpoint_step,
        "is_automatic": is_automatic,
        "target": Jsonb(target),
        "traceparent": current_traceparent(),
    }
    with conn.cursor(row_factory=class_row(Publication)) as cursor:
        publication = cursor.execute(_CREATE, facts).fetchone()
    assert publication is not None
    if is_automatic:
        automatic_publications.lock(conn, publication.publication_id)
        automatic_publications.end_superseded(conn, publication.publication_id)
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
    RETURNING publication_id, tenant_id, run_id, checkpoint_step, is_automatic, fence, target,
        attempts
)
SELECT {columns} FROM claimed LEFT JOIN LATERAL (
    SELECT result_step AS step, result_key_prefix AS key_prefix,
        result_manifest_sha256 AS manifest_sha256, result_size_bytes AS size_bytes
    FROM runs
    WHERE runs.run_id = claimed.run_id AND runs.tenant_id = claimed.tenant_id
        AND claimed.checkpoint_step IS NULL
    UNION ALL
    SELECT step, key_prefix, manifest_sha256, size_bytes FROM checkpoints
    WHERE checkpoints.run_id = claimed.run_id AND checkpoints.tenant_id = claimed.tenant_id
        AND checkpoints.step = claimed.checkpoint_step
) AS stored ON true
""").format(columns=columns_of(PublicationWork))


def claim(
    conn: Connection, publication_id: str, lease: timedelta, *, tenant_id: str | None = None
) -> PublicationWork | None:
    """Claim a due publication; None where another process holds it or it has ended.

    None too where an automatic one has to wait for another of its run.
    """
    automatic_publications.lock(conn, publication_id)
    if not automatic_publications.is_next(conn, publication_id):
        return None
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
RETURNING tenant_id, run_id
"""


def succeed(
    conn: Connection, publication_id: str, fence: int, location: str, revision: str | None
) -> None:
    """Record the success. Raises LeaseLostError where another process claimed it meanwhile."""
    automatic_publications.lock(conn, publication_id)
    row = conn.execute(_SUCCEED, (location, revision, publication_id, fence)).fetchone()
    if row is None:
        raise LeaseLostError(run_id=publication_id, fence=fence)
    tenant_id, run_id = row
    automatic_publications.wake(conn, publication_id)
    webhook_events.announce_publication(conn, tenant_id, run_id, publication_id, status="succeeded")


_FAIL: Final = """
UPDATE publications SET status = %s, error = %s, lease_until = NULL,
    ring_after = clock_timestamp() + make_interval(secs => %s), updated_at = clock_timestamp()
WHERE publication_id = %s AND fence = %s AND status = 'running'
RETURNING tenant_id, run_id
"""


def fail(
    conn: Connection,
    publication_id: str,
    fence: int,
    error: Failure,
    retry_after: timedelta | None,
) -> None:
    """Record a failed try; repeat it after ``retry_after``, or never. Raises LeaseLostError."""
    automatic_publications.lock(conn, publication_id)
    status = "failed" if retry_after is None else "pending"
    delay_s = None if retry_after is None else seconds(retry_after)
    facts = (status, Jsonb(failure_as_json(error)), delay_s, publication_id, fence)
    row = conn.execute(_FAIL, facts).fetchone()
    if row is None:
        raise LeaseLostError(run_id=publication_id, fence=fence)
    automatic_publications.end_superseded(conn, publication_id)
    automatic_publications.wake(conn, publication_id)
    if status == "failed":
        tenant_id, run_id = row
        webhook_events.announce_publication(conn, tenant_id, run_id, publication_id, status=status)


def publishes_checkpoints(plan: Mapping[str, Any]) -> bool:
    """Whether a plan asks for each checkpoint to be published, too."""
    return bool(plan["operation"]["publication"].get("checkpoints", False))


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
