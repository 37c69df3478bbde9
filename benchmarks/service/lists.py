"""A list of runs whose data are 10,000 pictures each."""

import time
from typing import Any

import httpx

from benchmarks.service.queued import wait_for_admission
from benchmarks.service.setting import percentile, running

_RUNS, _PICTURES, _CALLS = 20, 10_000, 200
_DEADLINE_S = 100.0
_WAITING = "SELECT count(*) FROM runs WHERE status = 'queued' AND stage = 'admission'"


def lists() -> dict[str, Any]:
    """``list_ms`` (median), ``list_p99_ms``, ``list_bytes``; ``get_ms`` of one run."""
    with running() as setting:
        tenant_id, key = setting.tenant("ada")
        made = list(wait_for_admission(setting, [tenant_id], _RUNS, _PICTURES))
        setting.start_admission()
        setting.start_api()
        end_s = time.monotonic() + _DEADLINE_S
        while True:
            with setting.database.transaction() as conn:
                row = conn.execute(_WAITING).fetchone()
            if row == (0,):
                break
            if time.monotonic() > end_s:
                raise RuntimeError(f"{row} runs were not admitted in {_DEADLINE_S:g} s")
            time.sleep(0.1)
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=setting.fleet.url, headers=headers, timeout=30) as client:
            listed = _times(client, f"/v1/runs?limit={_RUNS}")
            single = _times(client, f"/v1/runs/{made[0]}")
            answer = client.get(f"/v1/runs?limit={_RUNS}")
        assert len(answer.json()["data"]) == _RUNS
        return {
            "list_ms": percentile(listed, 0.5),
            "list_p99_ms": percentile(listed, 0.99),
            "list_bytes": len(answer.content),
            "get_ms": percentile(single, 0.5),
            "pictures": _PICTURES,
        }


def _times(client: httpx.Client, path: str) -> list[float]:
    took = []
    for _ in range(_CALLS):
        started_s = time.monotonic()
        client.get(path).raise_for_status()
        took.append(time.monotonic() - started_s)
    return took
