"""Hundreds of watchers of event streams, each of which hangs up and comes back."""

import asyncio
import json
import random
import threading
import time
from typing import Any

import httpx

from benchmarks.service.queued import new_worker_id, wait_for_capacity
from benchmarks.service.setting import Setting, running
from services.domain.ledger import ChildEvent, Claim, Worker
from services.store.ledger import PostgresLedger
from tests.support.runs import LEASE, result_of

_WATCHERS, _RUNS, _RECONNECTS = 500, 20, 1000
_EVENTS, _EVERY_S = 60, 0.4
_DEADLINE_S = 100.0


def watchers() -> dict[str, Any]:
    """``sse_gaps``, ``sse_repeats`` over all watchers, and how many times they reconnected."""
    with running() as setting:
        tenant_id, key = setting.tenant("ada")
        run_ids = wait_for_capacity(setting, [tenant_id], _RUNS)
        setting.start_api()
        ledger = PostgresLedger(setting.database)
        worker_id = new_worker_id()
        worker = Worker(worker_id=worker_id, kind="trainer", gpu_class="cpu", version="0")
        ledger.register(worker, draining=False, run_id=None)
        claims = [ledger.claim(each, worker_id=worker_id, lease=LEASE) for each in run_ids]
        writer = threading.Thread(target=_write, args=(ledger, claims))
        writer.start()
        seen, reconnects, delays = asyncio.run(_watch_all(setting, key, run_ids))
        writer.join()
        complete = {run_id: _last_event(setting, run_id) for run_id in run_ids}
        gaps = sum(len(set(range(1, complete[run_id] + 1)) - set(ids)) for run_id, ids in seen)
        repeats = sum(len(ids) - len(set(ids)) for _, ids in seen)
        return {
            "sse_gaps": gaps,
            "sse_repeats": repeats,
            "reconnects": reconnects,
            "watchers": _WATCHERS,
            "events_seen": sum(len(ids) for _, ids in seen),
            "event_delay_p99_ms": round(1000 * sorted(delays)[int(len(delays) * 0.99)]),
        }


def _write(ledger: PostgresLedger, claims: list[Claim | None]) -> None:
    """Events of every run, and its end."""
    for number in range(1, _EVENTS + 1):
        for claim in claims:
            assert claim is not None
            data = {"written_s": time.time()}
            event = ChildEvent(type="step", step=number, data=data, number=number)
            ledger.event(claim.run_id, claim.fence, [event])
        time.sleep(_EVERY_S)
    for claim in claims:
        assert claim is not None
        ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=10)


async def _watch_all(
    setting: Setting, key: str, run_ids: list[str]
) -> tuple[list[tuple[str, list[int]]], int, list[float]]:
    draw = random.Random(0)  # noqa: S311 - no secret
    reconnects = 0
    delays: list[float] = []

    async def watch(client: httpx.AsyncClient, run_id: str, hang_ups: int) -> list[int]:
        nonlocal reconnects
        ids: list[int] = []
        while True:
            until = draw.randint(5, 25) if hang_ups else 10**9
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(ids[-1] if ids else 0)}
            try:
                async with client.stream(
                    "GET", f"/v1/runs/{run_id}/events", headers=headers
                ) as answer:
                    if answer.status_code == 204:
                        return ids
                    answer.raise_for_status()
                    got = 0
                    async for line in answer.aiter_lines():
                        if line.startswith("id:"):
                            ids.append(int(line[3:]))
                            got += 1
                        elif line.startswith("data:"):
                            written_s = json.loads(line[5:])["data"].get("written_s")
                            if written_s is not None and got > 1:
                                delays.append(time.time() - written_s)
                        elif not line and got >= until:
                            break
            except httpx.TransportError:
                await asyncio.sleep(0.2)
            hang_ups -= 1
            reconnects += 1

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=setting.fleet.url,
        headers={"Authorization": f"Bearer {key}"},
        limits=limits,
        timeout=httpx.Timeout(60),
    ) as client:
        followed = [run_ids[n % len(run_ids)] for n in range(_WATCHERS)]
        watching = [watch(client, each, _RECONNECTS // _WATCHERS) for each in followed]
        seen = await asyncio.wait_for(asyncio.gather(*watching), _DEADLINE_S)
    return list(zip(followed, seen, strict=True)), reconnects, delays


def _last_event(setting: Setting, run_id: str) -> int:
    with setting.database.transaction() as conn:
        row = conn.execute("SELECT event_seq FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    assert row is not None
    return int(row[0])
