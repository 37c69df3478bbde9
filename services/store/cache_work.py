"""Work of the cache builders: datasets to verify and shards to build, shared fairly.

At most two rows a builder are in flight: one that it works on, and one whose ring waits for it. So
the broker never holds a backlog, and the next row is chosen when a builder is about to be free.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from services.store.database import Connection, seconds

_LOCK: Final = 0x7265766572636163
"""Advisory lock: one dispatcher at a time counts the rows in flight ("revercac" in ASCII)."""
_ROWS_A_BUILDER: Final = 2
_SPARE: Final = 16
"""Candidates beyond the free places, in case some rows are locked and skipped."""


class CacheTask(StrEnum):
    VERIFY = "verify"
    BUILD = "build"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheWork:
    """A dataset that is due for verification, or a shard that is due to be built."""

    task: CacheTask
    tenant_id: str
    id: str
    """The dataset's id, or the shard's digest."""


_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
_IN_FLIGHT: Final = """
    SELECT tenant_id FROM datasets
    WHERE (offered_until IS NOT NULL OR lease_until IS NOT NULL) AND status = 'verifying'
        AND greatest(offered_until, lease_until) > clock_timestamp()
    UNION ALL
    SELECT tenant_id FROM cache_shards
    WHERE (offered_until IS NOT NULL OR lease_until IS NOT NULL) AND status = 'pending'
        AND greatest(offered_until, lease_until) > clock_timestamp()
"""
_PLACES: Final = f"""
SELECT (
    SELECT count(*) FROM workers WHERE kind = 'cache_builder' AND NOT draining
        AND heartbeat_at > clock_timestamp() - make_interval(secs => %s)
) * %s - (SELECT count(*) FROM ({_IN_FLIGHT}) AS in_flight)
"""  # noqa: S608 - constants
# Tenants take turns: a row's turn is the number of its tenant's rows that are in flight or due
# before it, divided by the tenant's weight.
_CANDIDATES: Final = f"""
WITH held AS (
    SELECT tenant_id, count(*) AS num_rows FROM ({_IN_FLIGHT}) AS in_flight GROUP BY tenant_id
), due AS (
    SELECT 'verify' AS task, tenants.tenant_id, dataset_id AS id, ring_after
    FROM tenants CROSS JOIN LATERAL (
        SELECT dataset_id, ring_after FROM datasets
        WHERE datasets.tenant_id = tenants.tenant_id AND status = 'verifying'
            AND ring_after <= clock_timestamp()
        ORDER BY ring_after LIMIT %(limit)s
    ) AS waiting
    UNION ALL
    SELECT 'build', tenants.tenant_id, digest, ring_after
    FROM tenants CROSS JOIN LATERAL (
        SELECT digest, ring_after FROM cache_shards
        WHERE cache_shards.tenant_id = tenants.tenant_id AND status = 'pending'
            AND ring_after <= clock_timestamp()
        ORDER BY ring_after LIMIT %(limit)s
    ) AS waiting
), turns AS (
    SELECT task, tenant_id, id, ring_after,
        (coalesce(held.num_rows, 0)
            + row_number() OVER (PARTITION BY tenant_id ORDER BY ring_after, id)
        ) / tenants.weight AS turn
    FROM due JOIN tenants USING (tenant_id) LEFT JOIN held USING (tenant_id)
)
SELECT task, tenant_id, id FROM turns ORDER BY turn, ring_after, id LIMIT %(limit)s
"""  # noqa: S608 - constants
_OFFER_DATASET: Final = """
UPDATE datasets SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(offer_s)s)
WHERE dataset_id IN (
    SELECT dataset_id FROM datasets
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(id)s AND status = 'verifying'
        AND ring_after <= clock_timestamp()
    FOR UPDATE SKIP LOCKED)
"""
_OFFER_SHARD: Final = """
UPDATE cache_shards SET offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(offer_s)s)
WHERE (tenant_id, digest) IN (
    SELECT tenant_id, digest FROM cache_shards
    WHERE tenant_id = %(tenant_id)s AND digest = %(id)s AND status = 'pending'
        AND ring_after <= clock_timestamp()
    FOR UPDATE SKIP LOCKED)
"""
_OFFERS: Final = {CacheTask.VERIFY: _OFFER_DATASET, CacheTask.BUILD: _OFFER_SHARD}


def take_offers(conn: Connection, *, offer: timedelta, silence: timedelta) -> list[CacheWork]:
    """Mark due rows as offered and return them, so that two a builder are in flight.

    Args:
        offer: a row that no builder takes within this time may be offered again.
        silence: a builder without a heartbeat for this long is not counted.
    """
    if conn.execute(_TRY_LOCK, (_LOCK,)).fetchone() != (True,):
        return []  # another dispatcher is counting
    row = conn.execute(_PLACES, (seconds(silence), _ROWS_A_BUILDER)).fetchone()
    assert row is not None
    num_places = max(0, row[0])
    taken: list[CacheWork] = []
    for work in _candidates(conn, num_places + _SPARE) if num_places else ():
        if len(taken) == num_places:
            break
        facts = {"tenant_id": work.tenant_id, "id": work.id, "offer_s": seconds(offer)}
        if conn.execute(_OFFERS[work.task], facts).rowcount:
            taken.append(work)
    return taken


def _candidates(conn: Connection, limit: int) -> list[CacheWork]:
    found = conn.execute(_CANDIDATES.encode(), {"limit": limit})
    return [CacheWork(task=CacheTask(task), tenant_id=t, id=i) for task, t, i in found]


_WITHDRAW: Final = {
    CacheTask.VERIFY: """
UPDATE datasets SET offered_until = NULL, ring_after = clock_timestamp()
WHERE tenant_id = %s AND dataset_id = %s
    AND (lease_until IS NULL OR lease_until <= clock_timestamp()) AND ring_after IS NOT NULL
""",
    CacheTask.BUILD: """
UPDATE cache_shards SET offered_until = NULL, ring_after = clock_timestamp()
WHERE tenant_id = %s AND digest = %s
    AND (lease_until IS NULL OR lease_until <= clock_timestamp()) AND ring_after IS NOT NULL
""",
}


def withdraw(conn: Connection, offered: CacheWork) -> None:
    """Take the offer back, because its ring could not be sent."""
    conn.execute(_WITHDRAW[offered.task], (offered.tenant_id, offered.id))
