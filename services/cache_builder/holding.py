"""Keep a lease on a row alive while this process works on the row."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Final

import structlog

from services.processes.threads import wait_for_end
from services.store.database import TRANSIENT_ERRORS, Connection, Database

log = structlog.get_logger(__name__)

_RENEW_S: Final = 10.0
"""A third of the lease: two lost renewals do not end it."""
_END_S: Final = 10.0
"""For a renewal under way; a later one holds the row for one lease more, at most."""


@contextlib.contextmanager
def renewed(database: Database, renew: Callable[[Connection], None]) -> Iterator[None]:
    """Call ``renew`` in a transaction every 10 s until the end of the block.

    A lease that runs out nevertheless does no harm: then another builder may do the same work.
    """
    done = threading.Event()

    def renew_until_done() -> None:
        while not done.wait(_RENEW_S):
            try:
                with database.transaction() as conn:
                    renew(conn)
            except TRANSIENT_ERRORS as error:
                log.warning("lease_not_renewed", error=type(error).__name__)
            except Exception:  # the thread's outermost loop: the next renewal may succeed
                log.exception("lease_not_renewed")

    context = copy_context()  # the thread's log lines name the row
    thread = threading.Thread(
        target=context.run, args=(renew_until_done,), name="lease", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        wait_for_end(thread, _END_S)
