"""Submitting runs over HTTP: how many a second, and how long one takes, also without Redis."""

import json
import threading
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

from benchmarks.service.queued import ready_dataset
from benchmarks.service.setting import NAME, Setting, percentile, running
from tests.support.service import run_request

_THREADS = 8
_SECONDS = 15.0


def submits() -> dict[str, Any]:
    """``submits_per_s``, ``p99_ms``; ``…_redis_down`` the same with Redis stopped."""
    # More than a tenant may ask for by default, so the quota is not what is measured.
    unlimited = {
        "REVERIE_QUOTA_REQUESTS_PER_MINUTE": "1000000",
        "REVERIE_QUOTA_QUEUED_RUNS": "1000000",
    }
    with running(None, **unlimited) as setting:
        tenant_id, key = setting.tenant("ada")
        with setting.database.transaction() as conn:
            dataset = ready_dataset(conn, tenant_id, 4)
        setting.start_api()
        setting.fleet.start("dispatcher")
        body = _body(dataset)
        _submit_for(setting, key, body, 2.0)  # warm
        warm_bytes = setting.pss_bytes("api")
        with_redis = _submit_for(setting, key, body, _SECONDS)
        setting.redis.kill()
        without = _submit_for(setting, key, body, _SECONDS)
        return {
            "submits_per_s": round(len(with_redis) / _SECONDS, 1),
            "p50_ms": percentile(with_redis, 0.5),
            "p99_ms": percentile(with_redis, 0.99),
            "submits_per_s_redis_down": round(len(without) / _SECONDS, 1),
            "p99_ms_redis_down": percentile(without, 0.99),
            "api_growth_kb_per_submit": _kb_each(
                setting.pss_bytes("api") - warm_bytes, len(with_redis) + len(without)
            ),
            "clients": _THREADS,
        }


def _kb_each(total_bytes: int, count: int) -> float:
    return round(total_bytes / 1024 / count, 2)


def _body(dataset: str) -> bytes:
    request = run_request({"photos": dataset})
    request["config"]["pretrained_model_name_or_path"] = NAME
    request["data_backends"] = [b for b in request["data_backends"] if b["id"] != "held-out"]
    return json.dumps(request).encode()


def _submit_for(setting: Setting, key: str, body: bytes, seconds: float) -> Sequence[float]:
    """Seconds of each submission; any answer but 201 is an error."""
    took: list[float] = []
    errors: list[str] = []
    end_s = time.monotonic() + seconds

    def submit() -> None:
        # The standard library's client takes the least time from the service on the same cores.
        client = HTTPConnection("127.0.0.1", setting.fleet.port, timeout=30)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        while time.monotonic() < end_s and not errors:
            started_s = time.monotonic()
            unique = {"Idempotency-Key": str(uuid.uuid4())}
            client.request("POST", "/v1/runs", body, {**headers, **unique})
            answer = client.getresponse()
            text = answer.read()
            if answer.status != HTTPStatus.CREATED:
                errors.append(f"{answer.status} {text[:300]!r}")
            took.append(time.monotonic() - started_s)
        client.close()

    threads = [threading.Thread(target=submit) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(errors[0])
    return took
