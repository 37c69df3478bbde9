"""Request rates: whose an API key is, what it may do, and a token of its tenant's bucket.

All in one statement, which every request runs.

The buckets are rows, so a limit holds over all processes of the API. They are not logged: after a
crash of the database every bucket is full again.
"""

from typing import Any, Final

import psycopg
import structlog
from psycopg.sql import SQL, Composable, Composed, Identifier

from services.domain.access import Actor, Operator, RemoteWorker
from services.domain.quotas import Quotas
from services.domain.request_rates import SHARE, WINDOW_S, RatePolicy, Taken
from services.store import valid_keys
from services.store.database import Connection, DatabaseBusyError

log = structlog.get_logger(__name__)

_WORKER_REQUESTS_PER_MINUTE: Final = 1200
"""A worker asks for the address of each file that it reads or writes, and a cache has thousands."""

# A new bucket is full. ``excluded`` has one token less than the capacity: this request's.
_FILLED: Final = SQL("""
    least(excluded.tokens + 1, bucket.tokens + (excluded.tokens + 1) / {window_s}
        * greatest(0, extract(epoch FROM clock_timestamp() - bucket.filled_at)))""")
_OF_TENANT: Final = SQL("""
SELECT api_keys.tenant_id AS owner,
    %(share)s * coalesce(requests_per_minute, %(requests_per_minute)s)::bigint AS capacity,
    {columns}
FROM api_keys LEFT JOIN members USING (tenant_id, member_id) LEFT JOIN quotas USING (tenant_id)
WHERE key_hmac = %(key_hmac)s AND {is_valid}
""").format(columns=valid_keys.ACTOR_COLUMNS, is_valid=valid_keys.IS_VALID)
_OF_OPERATOR: Final = SQL("""
SELECT key_id AS owner, %(share)s * %(requests_per_minute)s::bigint AS capacity, key_id, name
FROM operator_keys
WHERE key_hmac = %(key_hmac)s AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
""")
_OF_WORKER: Final = SQL("""
SELECT key_id AS owner, %(share)s * {requests_per_minute}::bigint AS capacity,
    key_id, worker_id, gpu_class, node
FROM worker_keys
WHERE key_hmac = %(key_hmac)s AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
""").format(requests_per_minute=_WORKER_REQUESTS_PER_MINUTE)
# ``taken`` has no row where the bucket has no whole token; the row of before says when it will.
# A request does not wait for another one that notes the use of the same key.
_TAKE: Final = SQL("""
WITH key AS ({key}), used AS (
    UPDATE {table} SET last_used_at = clock_timestamp() WHERE key_id = (
        SELECT key_id FROM {table} WHERE key_id = (SELECT key_id FROM key)
            AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
        FOR NO KEY UPDATE SKIP LOCKED)
), taken AS (
    INSERT INTO rate_buckets AS bucket (tenant_id, policy, tokens)
    SELECT owner, %(policy)s, capacity - 1 FROM key WHERE capacity > 0
    ON CONFLICT (tenant_id, policy) DO UPDATE
        SET tokens = {filled} - 1, filled_at = clock_timestamp()
        WHERE {filled} >= 1
    RETURNING tokens
)
SELECT key.*, taken.tokens IS NOT NULL, coalesce(taken.tokens,
    before.tokens + capacity::double precision / {window_s}
        * greatest(0, extract(epoch FROM clock_timestamp() - before.filled_at)), 0)
FROM key LEFT JOIN taken ON true
    LEFT JOIN rate_buckets AS before
        ON before.tenant_id = key.owner AND before.policy = %(policy)s
""")


def _take_of(key: Composable, table: str) -> Composed:
    filled = _FILLED.format(window_s=WINDOW_S)
    return _TAKE.format(key=key, table=Identifier(table), filled=filled, window_s=WINDOW_S)


_TAKE_OF_TENANT: Final = _take_of(_OF_TENANT, "api_keys")
_TAKE_OF_OPERATOR: Final = _take_of(_OF_OPERATOR, "operator_keys")
_TAKE_OF_WORKER: Final = _take_of(_OF_WORKER, "worker_keys")


def take(
    conn: Connection, key_hmac: str, policy: RatePolicy, defaults: Quotas
) -> tuple[Actor, Taken] | None:
    """Take a token from the bucket of the key's tenant; None where the key is not valid.

    A key is valid until it expires, it is revoked, or its member is removed. Its use is noted once
    a minute.

    Where the buckets cannot be used, a request that creates something is refused with
    DatabaseBusyError: nobody should spend GPU hours without a limit. Other requests are allowed,
    so that tenants can still watch and cancel their runs.

    Args:
        conn: in autocommit mode, so that a process that pauses here holds no lock.
        key_hmac: the key's, from ``api_keys.digest``.
    """
    found = _take(conn, _TAKE_OF_TENANT, _OF_TENANT, _facts(key_hmac, policy, defaults))
    if found is None:
        return None
    (tenant_id, *columns), taken = found
    return valid_keys.actor_of(tenant_id, columns), taken


def take_as_operator(
    conn: Connection, key_hmac: str, policy: RatePolicy, defaults: Quotas
) -> tuple[Operator, Taken] | None:
    """As ``take``, for a key of an operator, which has buckets of its own."""
    found = _take(conn, _TAKE_OF_OPERATOR, _OF_OPERATOR, _facts(key_hmac, policy, defaults))
    if found is None:
        return None
    (_, key_id, name), taken = found
    return Operator(key_id=key_id, name=name), taken


def take_as_worker(
    conn: Connection, key_hmac: str, policy: RatePolicy, defaults: Quotas
) -> tuple[RemoteWorker, Taken] | None:
    """As ``take``, for a key of a remote worker, which has buckets of its own."""
    found = _take(conn, _TAKE_OF_WORKER, _OF_WORKER, _facts(key_hmac, policy, defaults))
    if found is None:
        return None
    (_, key_id, worker_id, gpu_class, node), taken = found
    worker = RemoteWorker(key_id=key_id, worker_id=worker_id, gpu_class=gpu_class, node=node)
    return worker, taken


def _facts(key_hmac: str, policy: RatePolicy, defaults: Quotas) -> dict[str, Any]:
    return {
        "key_hmac": key_hmac,
        "policy": policy,
        "share": SHARE[policy],
        "requests_per_minute": defaults.requests_per_minute,
    }


def _take(
    conn: Connection, take_token: Composed, read_key: SQL | Composed, facts: dict[str, Any]
) -> tuple[tuple[Any, ...], Taken] | None:
    """The bucket's owner with the facts of the key, and the bucket's answer."""
    policy: RatePolicy = facts["policy"]
    try:
        row = conn.execute(take_token, facts).fetchone()
    except psycopg.Error as error:
        if conn.closed:
            raise
        log.warning("rate_buckets_failed", policy=policy, reason=type(error).__name__)
        if policy is RatePolicy.CREATE:
            raise DatabaseBusyError(type(error).__name__) from error
        row = conn.execute(read_key, facts).fetchone()
        if row is not None:
            row = (*row, True, row[1])  # as if the bucket were full
    if row is None:
        return None
    owner, capacity, *key, is_allowed, tokens = row
    taken = Taken(policy=policy, capacity=capacity, tokens=float(tokens), is_allowed=is_allowed)
    return (owner, *key), taken


_CHARGE: Final = """
UPDATE rate_buckets SET tokens = tokens - %s WHERE tenant_id = %s AND policy = %s
"""


def charge(conn: Connection, tenant_id: str, policy: RatePolicy, requests: int) -> None:
    """Count a request that was let in as ``requests`` more.

    The bucket may hold less than nothing then, and the next request waits until it is filled.
    """
    conn.execute(_CHARGE, (requests, tenant_id, policy))
