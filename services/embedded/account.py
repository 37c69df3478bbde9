"""The first tenant of a home and its API key, created once."""

import dataclasses

from services.embedded.home import Home
from services.store import tenants
from services.store.database import Database
from services.store.migrate import migrate

_NAME = "local"


def prepare_database(url: str, home: Home) -> str:
    """Migrate the schema and return an API key of the first tenant.

    The key of an earlier start is reused if the database still has it.
    """
    migrate(url)
    secrets = home.secrets()
    database = Database(url, max_size=1)
    try:
        with database.transaction() as conn:
            known = secrets.api_key
            if known is not None and tenants.tenant_of_key(conn, known) is not None:
                return known
            tenant_id = tenants.create_tenant(conn, _NAME)
            _, api_key = tenants.create_api_key(conn, tenant_id, _NAME)
    finally:
        database.close()
    home.save_secrets(dataclasses.replace(secrets, api_key=api_key))
    return api_key
