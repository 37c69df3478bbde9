"""The content of secrets, for the processes that open them. Requests have no right to read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.secrets.envelope import Envelope, SecretPlace
from services.store.database import Connection, columns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedSecret:
    """One row of ``secrets`` with its content."""

    secret_id: str
    tenant_id: str
    name: str
    kind: str
    version: int
    key_id: str
    sealed_key: bytes
    ciphertext: bytes
    warning: str | None
    """What an earlier use has found out."""

    @property
    def place(self) -> SecretPlace:
        """What the content is bound to."""
        return SecretPlace(
            tenant_id=self.tenant_id,
            secret_id=self.secret_id,
            name=self.name,
            kind=self.kind,
            version=self.version,
        )

    @property
    def envelope(self) -> Envelope:
        return Envelope(key_id=self.key_id, sealed_key=self.sealed_key, ciphertext=self.ciphertext)


_GET: Final = SQL("""
SELECT {columns} FROM secrets WHERE tenant_id = %s AND name = %s AND kind = %s
""").format(columns=columns_of(SealedSecret))


def get(conn: Connection, tenant_id: str, name: str, kind: str) -> SealedSecret | None:
    """The tenant's secret of this name, if it is of this kind."""
    with conn.cursor(row_factory=class_row(SealedSecret)) as cursor:
        return cursor.execute(_GET, (tenant_id, name, kind)).fetchone()


_SIGNING: Final = SQL("""
SELECT {columns} FROM secrets
WHERE tenant_id = %s AND secret_id = ANY(%s) AND kind = 'webhook' ORDER BY secret_id DESC
""").format(columns=columns_of(SealedSecret))


def signing_secrets(
    conn: Connection, tenant_id: str, secret_ids: Sequence[str]
) -> list[SealedSecret]:
    """Secrets that sign for a webhook, the newest first."""
    with conn.cursor(row_factory=class_row(SealedSecret)) as cursor:
        return cursor.execute(_SIGNING, (tenant_id, list(secret_ids))).fetchall()


_NOTE_USE: Final = """
UPDATE secrets SET last_used_at = clock_timestamp(), warning = coalesce(%(warning)s, warning)
WHERE tenant_id = %(tenant_id)s AND secret_id = %(secret_id)s AND version = %(version)s
"""


def note_use(conn: Connection, place: SecretPlace, warning: str | None) -> None:
    """Record that this version was used, and what its owner should know about it, if anything."""
    facts = {
        "tenant_id": place.tenant_id,
        "secret_id": place.secret_id,
        "version": place.version,
        "warning": warning,
    }
    conn.execute(_NOTE_USE, facts)


_OF_OTHER_KEYS: Final = SQL("""
SELECT {columns} FROM secrets
WHERE key_id <> %(key_id)s AND secret_id > %(after)s ORDER BY secret_id LIMIT %(limit)s
""").format(columns=columns_of(SealedSecret))


def of_other_keys(conn: Connection, key_id: str, *, after: str, limit: int) -> list[SealedSecret]:
    """Secrets of all tenants whose data keys are not sealed for this key, by id after ``after``."""
    facts = {"key_id": key_id, "after": after, "limit": limit}
    with conn.cursor(row_factory=class_row(SealedSecret)) as cursor:
        return cursor.execute(_OF_OTHER_KEYS, facts).fetchall()


_RESEAL: Final = """
UPDATE secrets SET key_id = %(new_key_id)s, sealed_key = %(sealed_key)s
WHERE tenant_id = %(tenant_id)s AND secret_id = %(secret_id)s AND version = %(version)s
    AND key_id = %(key_id)s
RETURNING true
"""


def reseal(conn: Connection, secret: SealedSecret, envelope: Envelope) -> bool:
    """Store the new seal of the data key; False where the secret has changed meanwhile."""
    facts = {
        "tenant_id": secret.tenant_id,
        "secret_id": secret.secret_id,
        "version": secret.version,
        "key_id": secret.key_id,
        "new_key_id": envelope.key_id,
        "sealed_key": envelope.sealed_key,
    }
    return conn.execute(_RESEAL, facts).fetchone() is not None
