"""How long things are kept that nobody deletes by hand."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

IDEMPOTENCY_KEYS: Final = timedelta(days=7)
"""A promise to clients, so it is no setting."""
DELIVERIES: Final = timedelta(days=30)
"""To webhooks; the last try is made three days after the event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Ages in days, from the end of the run that something belongs to."""

    events_days: float = 90
    """REVERIE_RETAIN_EVENTS_DAYS: then of a run's step events one in a hundred stays, and of its
    logs nothing. Its other events stay."""
    cache_days: float = 30
    """REVERIE_RETAIN_CACHE_DAYS: then a cache shard is deleted, unless another run needs it."""
    audit_days: float = 400
    """REVERIE_RETAIN_AUDIT_DAYS: age of events of the audit log themselves."""

    @property
    def events(self) -> timedelta:
        return timedelta(days=self.events_days)

    @property
    def cache(self) -> timedelta:
        return timedelta(days=self.cache_days)

    @property
    def audit(self) -> timedelta:
        return timedelta(days=self.audit_days)
