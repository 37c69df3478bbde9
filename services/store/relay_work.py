"""Relays of metrics that are due: claimed, moved on, failed."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from services.domain.errors import LeaseLostError
from services.store.database import Connection, columns_of, seconds
from services.store.sealed_secrets import SealedSecret
from trainer_core.process.failure import Failure, failure_as_json


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayWork:
    """A relay that this process has claimed, with what is known of its run."""

    run_id: str
    tenant_id: str
    secret: str
    seq: int
    """The run's events up to it are relayed."""
    step: int | None
    """The last step that is there; None: none."""
    url: str | None
    tries: int
    """Since the last one that succeeded, this one included."""
    fence: int
    run_status: str
    run_reason: dict[str, Any] | None
    event_seq: int
    """The run's newest event."""
    is_over: bool
    """Whether the run is: then it has no more events."""
    plan_digest: str


# Of one tenant only so many at a time: the others must not wait for its account. A run that waits
# for its first worker has events, but no metrics.
_CLAIM: Final = SQL("""
WITH busy AS MATERIALIZED (
    SELECT tenant_id FROM metric_relays WHERE lease_until > clock_timestamp()
    GROUP BY tenant_id HAVING count(*) >= %(of_one_tenant)s
), due AS (
    SELECT relays.run_id, runs.status AS run_status, status_reason AS run_reason, event_seq,
        finished_at IS NOT NULL AS is_over, plan_digest
    FROM metric_relays AS relays JOIN runs USING (tenant_id, run_id) JOIN tenants USING (tenant_id)
    WHERE due_at <= clock_timestamp()
        AND (relays.lease_until IS NULL OR relays.lease_until < clock_timestamp())
        AND ((event_seq > seq AND started_at IS NOT NULL) OR finished_at IS NOT NULL)
        AND runs.deleted_at IS NULL AND tenants.deleted_at IS NULL
        AND NOT EXISTS (SELECT FROM busy WHERE busy.tenant_id = relays.tenant_id)
    ORDER BY due_at LIMIT 1 FOR UPDATE OF relays SKIP LOCKED
), claimed AS (
    UPDATE metric_relays SET fence = fence + 1, tries = tries + 1,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM due WHERE metric_relays.run_id = due.run_id
    RETURNING metric_relays.*, run_status, run_reason, event_seq, is_over, plan_digest
)
SELECT {columns} FROM claimed
""").format(columns=columns_of(RelayWork))


def claim(conn: Connection, lease: timedelta, *, of_one_tenant: int) -> RelayWork | None:
    """Claim the relay that has been due for longest and may have something to send.

    Args:
        lease: longer than one try takes; it is not renewed.
        of_one_tenant: a tenant with so many claimed relays has to wait.
    """
    facts = {"lease_s": seconds(lease), "of_one_tenant": of_one_tenant}
    with conn.cursor(row_factory=class_row(RelayWork)) as cursor:
        return cursor.execute(_CLAIM, facts).fetchone()


_PAUSE: Final = """
UPDATE metric_relays SET tries = 0, lease_until = NULL, due_at = clock_timestamp()
    + greatest(make_interval(secs => %(least_s)s), least(make_interval(secs => %(most_s)s),
        clock_timestamp() - updated_at))
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
RETURNING true
"""


def pause(conn: Connection, work: RelayWork, *, least: timedelta, most: timedelta) -> None:
    """There was nothing to send: look again, the later the longer it has been so.

    Raises LeaseLostError where another process claimed it meanwhile.
    """
    facts = {"least_s": seconds(least), "most_s": seconds(most)}
    _change(conn, work, _PAUSE, facts)


_SENT: Final = """
UPDATE metric_relays SET seq = %(seq)s, step = %(step)s, url = %(url)s, error = NULL, tries = 0,
    status = CASE WHEN %(again_s)s::double precision IS NULL THEN 'succeeded' ELSE 'running' END,
    lease_until = NULL, updated_at = clock_timestamp(),
    due_at = clock_timestamp() + make_interval(secs => %(again_s)s)
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
RETURNING true
"""


def sent(
    conn: Connection,
    work: RelayWork,
    *,
    seq: int,
    step: int | None,
    url: str | None,
    again_after: timedelta | None,
) -> None:
    """The events up to ``seq`` are there. Raises LeaseLostError.

    ``again_after``: when to go on; None: that was all.
    """
    again_s = None if again_after is None else seconds(again_after)
    _change(conn, work, _SENT, {"seq": seq, "step": step, "url": url, "again_s": again_s})


# Where the secret has another value by now, that one is tried at once.
_FAILED: Final = """
UPDATE metric_relays SET error = %(error)s, lease_until = NULL, updated_at = clock_timestamp(),
    status = CASE WHEN is_old OR %(again_s)s::double precision IS NOT NULL
        THEN 'running' ELSE 'failed' END,
    due_at = CASE WHEN is_old THEN clock_timestamp()
        ELSE clock_timestamp() + make_interval(secs => %(again_s)s) END
FROM (
    SELECT %(used)s::text IS DISTINCT FROM (
        SELECT secret_id || ' ' || version FROM secrets
        WHERE tenant_id = %(tenant_id)s AND name = %(secret)s AND kind = 'wandb') AS is_old
) AS used
WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND fence = %(fence)s
RETURNING true
"""


def failed(
    conn: Connection,
    work: RelayWork,
    error: Failure,
    *,
    used: SealedSecret | None,
    again_after: timedelta | None,
) -> None:
    """The try failed. Raises LeaseLostError.

    Args:
        used: the secret that it used; None where there was none.
        again_after: when to try again; None: never, unless the secret gets another value.
    """
    facts = {
        "error": Jsonb(failure_as_json(error)),
        "secret": work.secret,
        "used": None if used is None else f"{used.secret_id} {used.version}",
        "again_s": None if again_after is None else seconds(again_after),
    }
    _change(conn, work, _FAILED, facts)


def _change(conn: Connection, work: RelayWork, query: str, facts: dict[str, Any]) -> None:
    whose = {"tenant_id": work.tenant_id, "run_id": work.run_id, "fence": work.fence}
    if conn.execute(query, {**facts, **whose}).fetchone() is None:
        raise LeaseLostError(run_id=work.run_id, fence=work.fence)
