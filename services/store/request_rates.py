"""Request rates: the tenant of an API key, and a token of its bucket, in one statement.

The buckets are rows, so a limit holds over all processes of the API. They are not logged: after a
crash of the database every bucket is full again.
"""

from typing import Any, Final

import psycopg
import structlog
from psycopg.sql import SQL

from services.domain.quotas import Quotas
from services.domain.request_rates import SHARE, WINDOW_S, RatePolicy, Taken
from services.store import tenants
from services.store.database import Connection, DatabaseBusyError

log = structlog.get_logger(__name__)

# A new bucket is full. ``excluded`` has one token less than the capacity: this request's.
_FILLED: Final = SQL("""
    least(excluded.tokens + 1, bucket.tokens + (excluded.tokens + 1) / {window_s}
        * greatest(0, extract(epoch FROM clock_timestamp() - bucket.filled_at)))""")
# ``taken`` has no row where the bucket has no whole token; the row of before says when it will.
_TAKE: Final = SQL("""
WITH owner AS (
    SELECT tenant_id,
        %(share)s * coalesce(requests_per_minute, %(requests_per_minute)s)::bigint AS capacity
    FROM api_keys LEFT JOIN quotas USING (tenant_id)
    WHERE key_sha256 = %(key_sha256)s AND revoked_at IS NULL
), taken AS (
    INSERT INTO rate_buckets AS bucket (tenant_id, policy, tokens)
    SELECT tenant_id, %(policy)s, capacity - 1 FROM owner WHERE capacity > 0
    ON CONFLICT (tenant_id, policy) DO UPDATE
        SET tokens = {filled} - 1, filled_at = clock_timestamp()
        WHERE {filled} >= 1
    RETURNING tokens
)
SELECT owner.tenant_id, capacity, taken.tokens IS NOT NULL, coalesce(taken.tokens,
    before.tokens + capacity::double precision / {window_s}
        * greatest(0, extract(epoch FROM clock_timestamp() - before.filled_at)), 0)
FROM owner LEFT JOIN taken ON true
    LEFT JOIN rate_buckets AS before
        ON before.tenant_id = owner.tenant_id AND before.policy = %(policy)s
""").format(filled=_FILLED.format(window_s=WINDOW_S), window_s=WINDOW_S)


def take(conn: Connection, api_key: str, policy: RatePolicy, defaults: Quotas) -> Taken | None:
    """Take a token from the bucket of the key's tenant; None where the key is unknown or revoked.

    Where the buckets cannot be used, a request that creates something is refused with
    DatabaseBusyError: nobody should spend GPU hours without a limit. Other requests are allowed,
    so that tenants can still watch and cancel their runs.

    Args:
        conn: in autocommit mode, so that a process that pauses here holds no lock.
    """
    facts: dict[str, Any] = {
        "key_sha256": tenants.digest(api_key),
        "policy": policy,
        "share": SHARE[policy],
        "requests_per_minute": defaults.requests_per_minute,
    }
    try:
        row = conn.execute(_TAKE, facts).fetchone()
    except psycopg.Error as error:
        if conn.closed:
            raise
        log.warning("rate_buckets_failed", policy=policy, reason=type(error).__name__)
        if policy is RatePolicy.CREATE:
            raise DatabaseBusyError(type(error).__name__) from error
        return _without_bucket(conn, api_key, policy, defaults)
    if row is None:
        return None
    tenant_id, capacity, is_allowed, tokens = row
    return Taken(
        tenant_id=tenant_id,
        policy=policy,
        capacity=capacity,
        tokens=float(tokens),
        is_allowed=is_allowed,
    )


def _without_bucket(
    conn: Connection, api_key: str, policy: RatePolicy, defaults: Quotas
) -> Taken | None:
    tenant_id = tenants.tenant_of_key(conn, api_key)
    if tenant_id is None:
        return None
    capacity = SHARE[policy] * defaults.requests_per_minute
    return Taken(
        tenant_id=tenant_id, policy=policy, capacity=capacity, tokens=capacity, is_allowed=True
    )
