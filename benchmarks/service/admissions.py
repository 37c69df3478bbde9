"""How many runs a second one dispatcher and one indexer admit, with ten pictures each."""

import time
from typing import Any

from benchmarks.service.queued import wait_for_admission
from benchmarks.service.setting import running

_TENANTS, _RUNS, _PICTURES = 20, 1500, 10
_DEADLINE_S = 90.0
_ADMITTED = "SELECT count(*) FROM runs WHERE NOT (status = 'queued' AND stage = 'admission')"


def admissions() -> dict[str, Any]:
    """``admissions_per_s``."""
    with running() as setting:
        tenants = [setting.tenant(f"tenant-{n}")[0] for n in range(_TENANTS)]
        for _ in wait_for_admission(setting, tenants, _RUNS, _PICTURES):
            pass
        setting.start_admission()
        started_s, admitted = 0.0, 0
        end_s = time.monotonic() + _DEADLINE_S
        while admitted < _RUNS and time.monotonic() < end_s:
            with setting.database.transaction() as conn:
                row = conn.execute(_ADMITTED).fetchone()
            assert row is not None
            if not started_s and row[0]:
                started_s, first = time.monotonic(), row[0]
            admitted = row[0]
            time.sleep(0.05)
        took_s = time.monotonic() - started_s
        return {
            "admissions_per_s": round((admitted - first) / took_s, 1),
            "admitted": admitted,
            "runs": _RUNS,
        }
