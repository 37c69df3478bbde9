"""One turn of a deletion: what it may use, how far it came, and when it should end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.objects.port import ObjectStore
from services.results.deletion.report import Report
from services.results.repeating import IsStopping
from services.results.targets.folder import FolderTarget
from services.store import deletions
from services.store.database import Connection, Database
from services.store.deletions import Deletion

_TURN_S: Final = 20.0
"""Then another deletion has its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """The deletion goes on later."""

    reason: str | None
    """What it waits for; None: only for its next turn."""
    after: timedelta


NEXT_TURN: Final = Wait(reason=None, after=timedelta(0))


@dataclass(kw_only=True, slots=True)
class Turn:
    """A deletion that this process has claimed."""

    database: Database
    objects: ObjectStore
    published: FolderTarget
    deletion: Deletion
    lease: timedelta
    report: Report
    batch: list[tuple[str, int]]
    """Objects that are being deleted, with their sizes, and not in the report yet."""
    is_stopping: IsStopping
    _ends_at: float = field(default_factory=lambda: time.monotonic() + _TURN_S)

    @property
    def tenant_id(self) -> str:
        return self.deletion.tenant_id

    @property
    def target(self) -> str:
        return self.deletion.target

    @property
    def should_end(self) -> bool:
        """Whether another deletion should have its turn, or the process is to end."""
        return self.is_stopping() or time.monotonic() > self._ends_at

    def save(self, conn: Connection, batch: Sequence[tuple[str, int]] = ()) -> None:
        """Store report and batch in this transaction, and renew the lease.

        Raises LeaseLostError.
        """
        deletions.save(conn, self.deletion, self.report, batch, lease=self.lease)
        self.batch = list(batch)
