"""How many requests may be at work at once in this process: in all, and for one owner.

Those that wait hold no thread and no connection to the database.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakValueDictionary

from services.api.errors import RateLimitedError

KEYS_AT_ONCE: Final = 4
REQUESTS_AT_ONCE: Final = 12
OPERATORS_AT_ONCE: Final = 2
REQUESTS_PER_TENANT: Final = 4
WORKERS_AT_ONCE: Final = 8
REQUESTS_PER_WORKER: Final = 4
"""Its lease, its events, a download and an upload."""
BATCHES_AT_ONCE: Final = 1
_WAIT_S: Final = 10
_LONG_WAIT_S: Final = 30
_RETRY_AFTER_S: Final = 5


class Places:
    """Places for requests, given in order; use it in one event loop."""

    def __init__(self, *, total: int, per_owner: int, wait_s: float) -> None:
        """``wait_s``: a request that has no place after this time is refused."""
        self._total = asyncio.Semaphore(total)
        self._per_owner = per_owner
        self._wait_s = wait_s
        # An owner's semaphore lives as long as a request holds it or waits for it.
        self._of_owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def one_for(self, owner: str) -> AsyncIterator[None]:
        """Wait for a place and hold it; raises RateLimitedError. An owner is mostly a tenant."""
        own = self._of_owners.setdefault(owner, asyncio.Semaphore(self._per_owner))
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._wait_s):
                    # The owner's own first: one that waits for it takes no place of others.
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._total)
            except TimeoutError:
                message = "Other requests of this kind are still at work."
                raise RateLimitedError(message, retry_after_s=_RETRY_AFTER_S) from None
            yield


class RequestPlaces:
    """The places of a process for all requests.

    A place of all but ``bodies`` stands for a connection to the database. One tenant has few of
    them, so that its slow requests leave connections and threads for others.
    """

    def __init__(self) -> None:
        self.keys = Places(total=KEYS_AT_ONCE, per_owner=2, wait_s=_WAIT_S)
        """For finding out whose an API key is. Their owner is the tenant where the key was seen
        before, and otherwise the client."""
        self.bodies = Places(total=32, per_owner=4, wait_s=_LONG_WAIT_S)
        """For bodies that are on disk, from their first byte to the answer."""
        self.requests = Places(
            total=REQUESTS_AT_ONCE, per_owner=REQUESTS_PER_TENANT, wait_s=_WAIT_S
        )
        self.operators = Places(
            total=OPERATORS_AT_ONCE, per_owner=OPERATORS_AT_ONCE, wait_s=_WAIT_S
        )
        self.workers = Places(total=WORKERS_AT_ONCE, per_owner=REQUESTS_PER_WORKER, wait_s=_WAIT_S)
        """For remote workers, which renew their leases through them."""
        self.batches = Places(total=BATCHES_AT_ONCE, per_owner=1, wait_s=_LONG_WAIT_S)
        """For planning the runs of a batch, which is seconds of Python: they would hold up other
        requests if there were several."""
