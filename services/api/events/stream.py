"""A run's events as server-sent events: first those that are stored, then each as it happens."""

from typing import Final

from services.api.events.presenting import event_shape
from services.api.events.shapes import TERMINAL_EVENTS
from services.api.service import Service
from services.store import runs
from services.store.runs import Event

_BATCH: Final = 100


class EventSource:
    """Events after ``after_seq`` without gap or duplicate, up to the run's last event."""

    def __init__(self, service: Service, tenant_id: str, run_id: str, after_seq: int) -> None:
        self._service = service
        self._tenant_id = tenant_id
        self._run_id = run_id
        self._after_seq = after_seq

    def read(self) -> tuple[list[str], bool]:
        """The next events, encoded, and whether no more will follow."""
        with self._service.database.transaction(self._tenant_id) as conn:
            is_over = runs.get(conn, self._tenant_id, self._run_id).is_over
            rows = runs.events(conn, self._tenant_id, self._run_id, self._after_seq, _BATCH)
        if not rows:
            return [], is_over  # where it is over, the client has the last event already
        self._after_seq = rows[-1].seq
        return [encoded(row) for row in rows], rows[-1].type in TERMINAL_EVENTS


def encoded(row: Event) -> str:
    """One event in the text format of server-sent events (WHATWG HTML, 9.2)."""
    type_ = " ".join(row.type.split())  # a line feed would end the field
    return f"id: {row.seq}\nevent: {type_}\ndata: {event_shape(row).model_dump_json()}\n\n"
