"""Memory of each process while runs go all the way through them, one after the other."""

import time
from typing import Any

from benchmarks.service.queued import wait_for_admission
from benchmarks.service.setting import Setting, running
from services.objects.folders import put_shard
from services.objects.open import open_store
from services.settings.env import Settings
from services.store import shards

_RUNS, _WARM = 160, 40
_DEADLINE_S = 80.0
_PROCESSES = ("api", "dispatcher", "results", "trainer-1", "trainer-2")
_OVER = "SELECT count(*) FROM runs WHERE status = 'succeeded'"
_FAILED = "SELECT status_reason->>'code' FROM runs WHERE status = 'failed' LIMIT 1"
_PENDING = "SELECT tenant_id, digest, kind FROM cache_shards WHERE status <> 'done'"


def memory() -> dict[str, Any]:
    """``growth_kb_per_run`` of each process, after it is warm, and its memory at the end."""
    with running({"trainer": "benchmarks.service.trainer"}) as setting:
        tenant_id, _ = setting.tenant("ada")
        for _ in wait_for_admission(setting, [tenant_id], _RUNS, 2):
            pass
        setting.start_api()
        for name in _PROCESSES[1:]:
            setting.fleet.start(name)
        end_s = time.monotonic() + _DEADLINE_S
        warm: dict[str, int] = {}
        warm_runs = ended = 0
        while ended < _RUNS and time.monotonic() < end_s:
            _build_shards(setting)
            ended = _ended(setting)
            if not warm and ended >= _WARM:
                warm = {name: setting.pss_bytes(name) for name in _PROCESSES}
                warm_runs = ended
            time.sleep(0.2)
        last = {name: setting.pss_bytes(name) for name in _PROCESSES}
        counted = max(1, ended - warm_runs)
        return {
            "runs": ended,
            "growth_kb_per_run": {
                name: round((last[name] - warm[name]) / 1024 / counted, 2) for name in warm
            },
            "pss_mb": {name: round(each / 2**20, 1) for name, each in last.items()},
        }


def _ended(setting: Setting) -> int:
    with setting.database.transaction() as conn:
        failed = conn.execute(_FAILED).fetchone()
        row = conn.execute(_OVER).fetchone()
    if failed is not None:
        raise RuntimeError(f"a run failed: {failed[0]}")
    assert row is not None
    return int(row[0])


def _build_shards(setting: Setting) -> None:
    """Store something for each shard that is wanted; nobody reads what is in it."""
    with setting.database.transaction() as conn:
        pending = conn.execute(_PENDING).fetchall()
    if not pending:
        return
    store = open_store(Settings.from_env(setting.fleet.env))
    content = setting.folder / "shard.safetensors"
    content.write_bytes(b"shard")
    for tenant_id, digest, kind in pending:
        stored = put_shard(store, tenant_id, digest, kind, content)
        with setting.database.transaction() as conn:
            shards.done(conn, tenant_id, digest, stored)
