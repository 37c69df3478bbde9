"""Inserting a planned run, in the transaction of its idempotency key."""

from services.api.runs.estimating import estimate_of_run
from services.api.runs.planning import check_again
from services.api.runs.presenting import run_shape
from services.api.runs.shapes import Run
from services.api.service import Service
from services.domain.waiting import NEW
from services.store import gpu_classes, metric_relays, quotas, runs
from services.store.database import Connection
from services.store.runs import NewRun


def insert_run(service: Service, conn: Connection, tenant_id: str, new: NewRun) -> Run:
    """The new run.

    Time has passed since it was planned, so what it names is checked again, while nothing of it
    can be deleted. Raises as ``plan_run`` does, and QuotaExceededError.
    """
    row = runs.create(conn, tenant_id, new)
    shown = run_shape(
        row,
        [],
        notices=new.notices,
        waiting=NEW,
        currency=gpu_classes.currencies(conn).get(new.gpu_class),
        estimate=estimate_of_run(conn, row),
        relay=metric_relays.find(conn, tenant_id, row.run_id) if new.wandb_secret else None,
    )
    quotas.check_new_runs(conn, tenant_id, service.settings.quotas)
    check_again(conn, tenant_id, new)
    return shown
