"""Shares of GPU time when tenants outnumber workers, and the wait of a tenant that comes late.

The dispatcher is a process. The workers are threads that claim what it offers, hold it for a drawn
time and commit a result: what a trainer does, without the training process.
"""

import random
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from benchmarks.service.queued import new_worker_id, wait_for_capacity
from benchmarks.service.setting import Setting, running
from services.domain.ledger import ChildEvent, Worker
from services.store.database import Database
from services.store.ledger import PostgresLedger
from tests.support.runs import result_of

_TENANTS, _RUNS, _WORKERS = 100, 10_000, 4
_WINDOW = 1000
_SECONDS = 120.0
_LIGHT_AFTER = 300
_LEASE = timedelta(seconds=60)
_OFFERED = """
SELECT run_id FROM runs WHERE status = 'queued' AND offered_until > clock_timestamp() LIMIT 8
"""
_DISPATCHED = """
SELECT tenant_id, charged_s FROM attempts WHERE outcome IS NOT NULL ORDER BY started_at
"""
_STARTED = "SELECT count(*) FROM attempts"
_BEFORE = """
SELECT count(*) FROM attempts
WHERE started_at < (SELECT started_at FROM attempts WHERE run_id = %(run_id)s)
    AND started_at > (SELECT created_at FROM runs WHERE run_id = %(run_id)s)
"""


def fairness(shortest_s: float, longest_s: float) -> dict[str, Any]:
    """``fair_share_error`` (the worst window), ``light_start_after`` (runs that started before).

    Args:
        shortest_s, longest_s: a run is held for a time between these.
    """
    held_s = (shortest_s, longest_s)
    with running() as setting:
        tenants = [setting.tenant(f"tenant-{n}")[0] for n in range(_TENANTS)]
        # One tenant after the other, so that the order of the runs is of no help.
        for tenant_id in tenants:
            wait_for_capacity(setting, [tenant_id], _RUNS // _TENANTS)
        setting.fleet.start("dispatcher")
        end = threading.Event()
        threads = [
            threading.Thread(target=_work, args=(setting, number, held_s, end))
            for number in range(_WORKERS)
        ]
        for thread in threads:
            thread.start()
        started_s = time.monotonic()
        light = _late_tenant(setting, started_s + _SECONDS)
        warm_bytes = setting.pss_bytes("dispatcher")
        time.sleep(max(0.0, started_s + _SECONDS - time.monotonic()))
        grown_bytes = setting.pss_bytes("dispatcher") - warm_bytes
        end.set()
        for thread in threads:
            thread.join()
        with setting.database.transaction() as conn:
            dispatched = conn.execute(_DISPATCHED).fetchall()
            before = conn.execute(_BEFORE, {"run_id": light}).fetchone()
        assert before is not None
        times = [
            (tenant, float(charged)) for tenant, charged in dispatched if tenant in set(tenants)
        ]
        windows = [times[at : at + _WINDOW] for at in range(0, len(times) - _WINDOW + 1, _WINDOW)]
        return {
            "fair_share_error": max((share_error(each, tenants) for each in windows), default=None),
            "fair_share_error_overall": share_error(times, tenants),
            "light_start_after": before[0],
            "dispatches": len(dispatched),
            "dispatches_per_s": round(len(dispatched) / _SECONDS, 1),
            "dispatcher_growth_kb_per_run": round(
                grown_bytes / 1024 / max(1, len(dispatched) - _LIGHT_AFTER), 2
            ),
            "windows": len(windows),
            "held_ms": [round(1000 * each) for each in held_s],
            "tenants": _TENANTS,
            "queued": _RUNS,
            "workers": _WORKERS,
        }


def share_error(times: Sequence[tuple[str, float]], tenants: Sequence[str]) -> float:
    """The largest |share − weight| / weight; all weights are equal."""
    used = dict.fromkeys(tenants, 0.0)
    for tenant, charged_s in times:
        used[tenant] += charged_s
    fair = sum(used.values()) / len(tenants)
    return round(max(abs(each - fair) / fair for each in used.values()), 4)


def _late_tenant(setting: Setting, end_s: float) -> str:
    """Once some runs were dispatched, a new tenant queues one; its id."""
    while time.monotonic() < end_s:
        with setting.database.transaction() as conn:
            row = conn.execute(_STARTED).fetchone()
        if row is not None and row[0] >= _LIGHT_AFTER:
            break
        time.sleep(0.05)
    (run_id,) = wait_for_capacity(setting, [setting.tenant("light")[0]], 1)
    return run_id


def _work(setting: Setting, number: int, held_s: tuple[float, float], end: threading.Event) -> None:
    """Claim, hold, commit, until the end."""
    draw = random.Random(number)  # noqa: S311 - no secret
    database = Database(setting.fleet.env["REVERIE_DATABASE_URL"], max_size=2)
    ledger = PostgresLedger(database)
    worker = Worker(worker_id=new_worker_id(), kind="trainer", gpu_class="cpu", version="0")
    registered_s = 0.0
    while not end.is_set():
        if time.monotonic() > registered_s + 1:
            ledger.register(worker, draining=False, run_id=None)
            registered_s = time.monotonic()
        with database.transaction() as conn:
            offered = [row[0] for row in conn.execute(_OFFERED)]
        claim = None
        for run_id in draw.sample(offered, len(offered)):
            if claim := ledger.claim(run_id, worker_id=worker.worker_id, lease=_LEASE):
                break
        if claim is None:
            end.wait(0.005)
            continue
        training = ChildEvent(type="stage", step=0, data={"stage": "training"}, number=1)
        ledger.event(claim.run_id, claim.fence, [training])
        time.sleep(draw.uniform(*held_s))  # it trains
        ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=10)
    database.close()
