"""One tenant posts sixteen datasets of 100,000 files at once; what another tenant feels."""

import json
import threading
import time
import uuid
from typing import Any

import httpx

from benchmarks.service.setting import percentile, running

_POSTS, _FILES = 16, 100_000
_DEADLINE_S = 110.0


def noisy() -> dict[str, Any]:
    """``noisy_p99_ms`` of another tenant's GETs, ``api_pss_mb`` at its highest."""
    with running(REVERIE_QUOTA_STORAGE_BYTES="1000000000000000") as setting:
        loud, quiet = setting.tenant("loud")[1], setting.tenant("quiet")[1]
        setting.start_api()
        files = [
            {"path": f"{n:06d}.png", "size_bytes": 9, "sha256": f"{n:064x}"} for n in range(_FILES)
        ]
        body = json.dumps({"name": "many", "files": files}).encode()
        statuses: list[int] = []
        url = setting.fleet.url
        calm = _get_until(url, quiet, threading.Event(), seconds=3)

        def post() -> None:
            headers = {
                "Authorization": f"Bearer {loud}",
                "Idempotency-Key": str(uuid.uuid4()),
                "Content-Type": "application/json",
            }
            try:
                answer = httpx.post(
                    f"{url}/v1/datasets", content=body, headers=headers, timeout=120
                )
                statuses.append(answer.status_code)
            except httpx.TransportError:
                statuses.append(0)

        threads = [threading.Thread(target=post) for _ in range(_POSTS)]
        ended = threading.Event()
        highest = [setting.pss_bytes("api")]

        def watch() -> None:
            while not ended.wait(0.1):
                highest[0] = max(highest[0], setting.pss_bytes("api"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        started_s = time.monotonic()
        for thread in threads:
            thread.start()

        def wait() -> None:
            for thread in threads:
                thread.join()
            ended.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        took = _get_until(url, quiet, ended, seconds=_DEADLINE_S)
        posts_s = time.monotonic() - started_s
        waiter.join()
        watcher.join()
        return {
            "noisy_p99_ms": percentile(took, 0.99),
            "noisy_p50_ms": percentile(took, 0.5),
            "calm_p99_ms": percentile(calm, 0.99),
            "api_pss_mb": round(highest[0] / 2**20),
            "posts_s": round(posts_s, 1),
            "statuses": {str(each): statuses.count(each) for each in sorted(set(statuses))},
            "body_mb": round(len(body) / 2**20, 1),
        }


def _get_until(url: str, key: str, end: threading.Event, *, seconds: float) -> list[float]:
    """Seconds of one GET after the other."""
    took = []
    end_s = time.monotonic() + seconds
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        while not end.is_set() and time.monotonic() < end_s:
            started_s = time.monotonic()
            client.get("/v1/runs", timeout=60).raise_for_status()
            took.append(time.monotonic() - started_s)
            time.sleep(0.01)
    return took
