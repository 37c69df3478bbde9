"""Events for webhooks, written in the transaction of what they tell.

So none is lost, and none tells what was rolled back. ``results`` sends them afterwards.
"""

import json
from collections.abc import Mapping
from typing import Final

from psycopg.sql import SQL

from services.domain.ids import new_id
from services.domain.states import RunStatus
from services.domain.webhooks import MOST_WEBHOOKS, OF_STATUS, EventType
from services.store.database import Connection
from services.store.run_rows import Run

Facts = Mapping[str, str | int | None]

PAYLOAD: Final = SQL("""
json_build_object('type', %(type)s::text, 'timestamp',
    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'data', %(data)s::json)
""")
"""SQL expression: the body of a new event."""

# A single statement, and mostly for no webhook: a run's transaction takes no longer for it.
_ANNOUNCE: Final = SQL("""
WITH event AS MATERIALIZED (SELECT {payload} AS payload)
INSERT INTO webhook_deliveries (delivery_id, tenant_id, webhook_id, event_id, type, payload)
SELECT (%(delivery_ids)s::text[])[row_number() OVER (ORDER BY webhook_id)], tenant_id, webhook_id,
    %(event_id)s, %(type)s, payload
FROM webhooks, event
WHERE tenant_id = %(tenant_id)s AND (events IS NULL OR %(type)s = ANY(events))
    AND disabled_at IS NULL AND deleted_at IS NULL
ORDER BY webhook_id LIMIT %(most)s
""").format(payload=PAYLOAD)


def announce(conn: Connection, tenant_id: str, type_: EventType, data: Facts) -> None:
    """Have the event sent to each of the tenant's webhooks that is for it.

    Args:
        data: ids and states only, since it leaves the service.
    """
    facts = {
        "tenant_id": tenant_id,
        "event_id": new_id("evt"),
        "delivery_ids": [new_id("whd") for _ in range(MOST_WEBHOOKS)],
        "type": type_,
        "data": json.dumps(data),
        "most": MOST_WEBHOOKS,
    }
    conn.execute(_ANNOUNCE, facts)


def announce_run(conn: Connection, run: Run, type_: EventType, **more: str | int | None) -> None:
    """An event of a run. ``version`` rises with each change, so older news can be told from it."""
    data: Facts = {
        "run_id": run.run_id,
        "batch_id": run.batch_id,
        "status": run.status,
        "stage": run.stage,
        "step": run.step,
        "version": run.version,
        **more,
    }
    announce(conn, run.tenant_id, type_, data)


def announce_status(conn: Connection, run: Run) -> None:
    """The run has come to its status; no event for a status that is on the way to another."""
    type_ = OF_STATUS.get(RunStatus(run.status))
    if type_ is not None:
        announce_run(conn, run, type_)


def announce_dataset(conn: Connection, tenant_id: str, dataset_id: str, *, status: str) -> None:
    """A dataset is verified: ``ready`` or ``rejected``."""
    type_: EventType = "dataset.validated" if status == "ready" else "dataset.rejected"
    announce(conn, tenant_id, type_, {"dataset_id": dataset_id, "status": status})


def announce_publication(
    conn: Connection, tenant_id: str, run_id: str, publication_id: str, *, status: str
) -> None:
    """A publication has ended: ``succeeded`` or ``failed``."""
    type_: EventType = "publication.succeeded" if status == "succeeded" else "publication.failed"
    data = {"publication_id": publication_id, "run_id": run_id, "status": status}
    announce(conn, tenant_id, type_, data)
