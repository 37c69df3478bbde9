"""How many requests may be at work at once in this process: in all, and for one tenant.

Those that wait hold no thread and no connection to the database.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakValueDictionary

from services.api.errors import RateLimitedError

REQUESTS_AT_ONCE: Final = 12
REQUESTS_PER_TENANT: Final = 4
_WAIT_S: Final = 10
_RETRY_AFTER_S: Final = 5


class Places:
    """Places for requests, given in order; use it in one event loop."""

    def __init__(self, *, total: int, per_tenant: int, wait_s: float) -> None:
        """``wait_s``: a request that has no place after this time is refused."""
        self._total = asyncio.Semaphore(total)
        self._per_tenant = per_tenant
        self._wait_s = wait_s
        # A tenant's semaphore lives as long as a request holds it or waits for it.
        self._of_tenants: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def one_for(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait for a place and hold it; raises RateLimitedError."""
        own = self._of_tenants.setdefault(tenant_id, asyncio.Semaphore(self._per_tenant))
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._wait_s):
                    # The tenant's own first: one that waits for it takes no place of others.
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._total)
            except TimeoutError:
                message = "Other requests of this kind are still at work."
                raise RateLimitedError(message, retry_after_s=_RETRY_AFTER_S) from None
            yield


class RequestPlaces:
    """The places of a process for everything but long lists of files.

    A place stands for a connection to the database. One tenant has few of them, so that its slow
    requests leave connections and threads for others.
    """

    def __init__(self) -> None:
        self.keys = Places(total=8, per_tenant=2, wait_s=_WAIT_S)
        """For finding out whose an API key is, so they are counted for each key."""
        self.requests = Places(
            total=REQUESTS_AT_ONCE, per_tenant=REQUESTS_PER_TENANT, wait_s=_WAIT_S
        )
