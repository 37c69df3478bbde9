"""The first tenant of a home and its API key, created once."""

import dataclasses

from services.domain.audit import OPERATOR_AT_DATABASE
from services.embedded.home import Home
from services.store import api_keys, audit, tenants
from services.store.database import Database
from services.store.migrate import migrate

_NAME = "local"


def prepare_database(url: str, home: Home, key_pepper: bytes) -> str:
    """Migrate the schema and return an API key of the first tenant.

    The key of an earlier start is reused if the database still has it.
    """
    migrate(url, key_pepper)
    secrets = home.secrets()
    database = Database(url, max_size=1)
    try:
        with database.transaction() as conn:
            known = secrets.api_key
            if known is not None and api_keys.tenant_of(conn, api_keys.digest(key_pepper, known)):
                return known
            tenant_id = tenants.create_tenant(conn, _NAME)
            key, api_key = api_keys.create(conn, tenant_id, key_pepper, name=_NAME)
            audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "tenant.created", tenant_id)
            audit.record(conn, tenant_id, OPERATOR_AT_DATABASE, "key.created", key.key_id)
    finally:
        database.close()
    home.save_secrets(dataclasses.replace(secrets, api_key=api_key))
    return api_key
