"""Which imports go on now: one at a time for each cache builder, and tenants take turns."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from psycopg.rows import class_row

from services.store import workers
from services.store.database import Connection, seconds

_LOCK: Final = 0x726576657269696D
"""Advisory lock: one dispatcher at a time counts the imports in flight ("reveriim" in ASCII)."""
_A_TENANT: Final = 2
"""Imports of one tenant at once, however many builders there are."""
_SPARE: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOffer:
    """An import that is offered to the cache builders."""

    tenant_id: str
    dataset_id: str


_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%s)"
_IN_FLIGHT: Final = """
SELECT tenant_id, count(*) AS num_rows FROM dataset_imports
WHERE status = 'importing' AND (offered_until IS NOT NULL OR lease_until IS NOT NULL)
    AND greatest(offered_until, lease_until) > clock_timestamp()
GROUP BY tenant_id
"""
# A row's turn is the number of its tenant's rows that are in flight or due before it, divided by
# the tenant's weight.
_CANDIDATES: Final = f"""
WITH held AS ({_IN_FLIGHT}), due AS (
    SELECT tenants.tenant_id, weight, coalesce(held.num_rows, 0) AS num_held, waiting.*
    FROM tenants LEFT JOIN held USING (tenant_id) CROSS JOIN LATERAL (
        SELECT dataset_id, ring_after FROM dataset_imports
        WHERE dataset_imports.tenant_id = tenants.tenant_id AND ring_after <= clock_timestamp()
            AND status = 'importing'
        ORDER BY ring_after, dataset_id
        LIMIT greatest(0, %(a_tenant)s - coalesce(held.num_rows, 0))
    ) AS waiting
)
SELECT tenant_id, dataset_id FROM due
ORDER BY (num_held + row_number() OVER (PARTITION BY tenant_id ORDER BY ring_after, dataset_id))
    / weight, ring_after, dataset_id
LIMIT %(limit)s
"""  # noqa: S608 - constants
_OFFER: Final = """
UPDATE dataset_imports SET
    offered_until = clock_timestamp() + make_interval(secs => %(offer_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(offer_s)s)
WHERE (tenant_id, dataset_id) IN (
    SELECT tenant_id, dataset_id FROM dataset_imports
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND status = 'importing'
        AND ring_after <= clock_timestamp()
    FOR UPDATE SKIP LOCKED)
"""


def take_offers(conn: Connection, *, offer: timedelta, silence: timedelta) -> list[ImportOffer]:
    """Mark due imports as offered and return them, so that one a builder is in flight.

    Args:
        offer: an import that no builder takes within this time may be offered again.
        silence: a builder without a heartbeat for this long is not counted.
    """
    if conn.execute(_TRY_LOCK, (_LOCK,)).fetchone() != (True,):
        return []  # another dispatcher is counting
    in_flight = sum(number for _, number in conn.execute(_IN_FLIGHT).fetchall())
    places = workers.cache_builders(conn, silence=silence) - in_flight
    if places <= 0:
        return []
    facts = {"a_tenant": _A_TENANT, "limit": places + _SPARE}
    with conn.cursor(row_factory=class_row(ImportOffer)) as cursor:
        candidates = cursor.execute(_CANDIDATES.encode(), facts).fetchall()
    taken: list[ImportOffer] = []
    for each in candidates:
        if len(taken) == places:
            break
        offered = {
            "tenant_id": each.tenant_id,
            "dataset_id": each.dataset_id,
            "offer_s": seconds(offer),
        }
        if conn.execute(_OFFER, offered).rowcount:
            taken.append(each)
    return taken


_WITHDRAW: Final = """
UPDATE dataset_imports SET offered_until = NULL, ring_after = clock_timestamp()
WHERE tenant_id = %s AND dataset_id = %s AND status = 'importing'
    AND (lease_until IS NULL OR lease_until <= clock_timestamp())
"""


def withdraw(conn: Connection, offer: ImportOffer) -> None:
    """Take the offer back: its ring could not be sent, or a builder that is at work has it."""
    conn.execute(_WITHDRAW, (offer.tenant_id, offer.dataset_id))
