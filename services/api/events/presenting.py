"""Rows of events as the shape that tenants see."""

from services.api.events.shapes import Event
from services.api.shapes import in_utc
from services.store.runs import Event as EventRow


def event_shape(row: EventRow) -> Event:
    return Event(
        id=row.seq, type=row.type, step=row.step, data=row.data, created_at=in_utc(row.created_at)
    )
