"""Idempotency keys, written in the same transaction as the row that they protect."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

from services.domain.errors import IdempotencyInFlightError, IdempotencyMismatchError
from services.domain.retention import IDEMPOTENCY_KEYS
from services.store.database import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The answer that was given to the first request with this key."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyScope:
    """An idempotency key and what it is unique in."""

    tenant_id: str
    method: str
    path: str
    key: str


_KEPT_S: Final = IDEMPOTENCY_KEYS.total_seconds()
_BEGIN: Final = """
INSERT INTO idempotency_keys (tenant_id, method, path, key, fingerprint)
VALUES (%(tenant_id)s, %(method)s, %(path)s, %(key)s, %(fingerprint)s)
ON CONFLICT (tenant_id, method, path, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, status = NULL, body = NULL,
        created_at = clock_timestamp()
    WHERE idempotency_keys.created_at < clock_timestamp() - make_interval(secs => %(kept_s)s)
RETURNING true
"""
_GET: Final = """
SELECT fingerprint, status, body FROM idempotency_keys
WHERE tenant_id = %(tenant_id)s AND method = %(method)s AND path = %(path)s AND key = %(key)s
    AND created_at >= clock_timestamp() - make_interval(secs => %(kept_s)s)
"""
# A second request with the key waits here while the first one's transaction runs.
_PATIENCE: Final = "SET LOCAL lock_timeout = '2s'"
_PATIENCE_OVER: Final = "SET LOCAL lock_timeout = 0"


def find(conn: Connection, scope: KeyScope, fingerprint: str) -> Replay | None:
    """The answer that was stored for the key; None where the key is free. Takes no lock.

    Raises as ``begin`` does.
    """
    return _replay(conn, scope, fingerprint)


def begin(conn: Connection, scope: KeyScope, fingerprint: str) -> Replay | None:
    """Reserve the key for this request, or return the answer that was stored before.

    Args:
        fingerprint: SHA-256 of the request body.

    Returns:
        None where the key was free: process the request in this transaction, then call ``finish``.

    Raises:
        IdempotencyMismatchError: the key was used with another body.
        IdempotencyInFlightError: the first request with this key is not answered yet.
    """
    if _take(conn, scope, fingerprint):
        return None
    replay = _replay(conn, scope, fingerprint)
    if replay is None:
        raise IdempotencyInFlightError(
            f"the first request with key {scope.key} is just being finished"
        )
    return replay


_FINISH: Final = """
UPDATE idempotency_keys SET status = %(status)s, body = %(body)s
WHERE tenant_id = %(tenant_id)s AND method = %(method)s AND path = %(path)s AND key = %(key)s
"""


def finish(conn: Connection, scope: KeyScope, *, status: int, body: dict[str, Any]) -> None:
    """Store the answer for later requests with this key."""
    conn.execute(_FINISH, {**asdict(scope), "status": status, "body": Jsonb(body)})


def _replay(conn: Connection, scope: KeyScope, fingerprint: str) -> Replay | None:
    row = conn.execute(_GET, {**asdict(scope), "kept_s": _KEPT_S}).fetchone()
    if row is None:
        return None
    stored, status, body = row
    if stored != fingerprint:
        raise IdempotencyMismatchError(f"key {scope.key} was used with another body")
    if status is None:
        raise IdempotencyInFlightError(f"the first request with key {scope.key} is at work")
    return Replay(status=status, body=body)


def _take(conn: Connection, scope: KeyScope, fingerprint: str) -> bool:
    facts = {**asdict(scope), "fingerprint": fingerprint, "kept_s": _KEPT_S}
    conn.execute(_PATIENCE)
    try:
        with conn.transaction():
            taken = conn.execute(_BEGIN, facts).fetchone()
    except LockNotAvailable:
        raise IdempotencyInFlightError(
            f"the first request with key {scope.key} is still in progress"
        ) from None
    conn.execute(_PATIENCE_OVER)
    return taken is not None
