"""The keys of a home: of its first tenant, and of its operator. Each is created once."""

import dataclasses
from dataclasses import dataclass

from services.domain.audit import OPERATOR_AT_DATABASE
from services.embedded.home import Home
from services.store import api_keys, audit, operator_keys, tenants
from services.store.database import Connection, Database
from services.store.migrate import migrate

_NAME = "local"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Secrets of valid keys."""

    api_key: str
    """Of the first tenant."""
    operator_key: str


def prepare_database(url: str, home: Home, key_pepper: bytes) -> Keys:
    """Migrate the schema and return the keys.

    Those of an earlier start are reused where the database still has them.
    """
    migrate(url, key_pepper)
    database = Database(url, max_size=1)
    secrets = home.secrets()
    try:
        with database.transaction() as conn:
            keys = Keys(
                api_key=_api_key(conn, key_pepper, secrets.api_key),
                operator_key=_operator_key(conn, key_pepper, secrets.operator_key),
            )
    finally:
        database.close()
    home.save_secrets(dataclasses.replace(secrets, **dataclasses.asdict(keys)))
    return keys


def _api_key(conn: Connection, key_pepper: bytes, known: str | None) -> str:
    if known is not None and api_keys.tenant_of(conn, api_keys.digest(key_pepper, known)):
        return known
    tenant_id = tenants.create_tenant(conn, _NAME)
    key, api_key = api_keys.create(conn, tenant_id, key_pepper, name=_NAME)
    audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.created", tenant_id)
    audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "key.created", key.key_id)
    return api_key


def _operator_key(conn: Connection, key_pepper: bytes, known: str | None) -> str:
    if known is not None and operator_keys.is_valid(conn, api_keys.digest(key_pepper, known)):
        return known
    return operator_keys.create(conn, key_pepper, name=_NAME)[1]
