"""Access to the rows of one tenant at a time, held by row-level security.

The migration ``0004_tenant_access.sql`` has the role and its policies.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from services.store.database import Connection, Database

ROLE: Final = "reverie_api"
_SET_TENANT: Final = "SELECT set_config('reverie.tenant_id', %s, true)"


class ScopedDatabase:
    """A pool of connections that see no row outside ``transaction``; safe to share among threads.

    The user of the URL has to be a member of the role.
    """

    def __init__(self, url: str, max_size: int, *, statement_timeout: timedelta) -> None:
        """As ``Database``."""
        self._database = Database(url, max_size, statement_timeout=statement_timeout, role=ROLE)

    @contextlib.contextmanager
    def transaction(self, tenant_id: str) -> Iterator[Connection]:
        """A transaction that sees and writes the rows of this tenant only.

        Raises as ``Database.transaction`` does.
        """
        with self._database.transaction() as conn:
            conn.execute(_SET_TENANT, (tenant_id,))
            yield conn

    def close(self) -> None:
        """Close every connection."""
        self._database.close()
