"""Migrate the schema: ``python -m services.store.migrate``. Concurrent calls are safe."""

import os
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, pool

from services.settings.env import Settings

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x7265766572696500
"""Advisory lock of this service's migrations: "reverie" in ASCII."""


def migrate(url: str, key_pepper: bytes) -> None:
    """Run the missing migrations in one transaction; a concurrent call waits for it.

    Args:
        key_pepper: the secret of ``api_keys.digest``, for the keys of older versions.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, connect_timeout=5),
        poolclass=pool.NullPool,
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config.attributes["connection"] = connection
        config.attributes["key_pepper"] = key_pepper
        command.upgrade(config, "head")
    engine.dispose()


if __name__ == "__main__":
    settings = Settings.from_env(os.environ)
    migrate(settings.database_url, settings.key_pepper)
