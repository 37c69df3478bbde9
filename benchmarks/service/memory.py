"""Memory of each process while runs go all the way through them, one after the other."""

import time
from typing import Any, Final

from benchmarks.service.queued import new_run, ready_dataset, real_plan
from benchmarks.service.setting import Setting, running
from services.objects.open import open_store
from services.objects.shards import put_shard
from services.settings.env import Settings
from services.store import runs, shards
from tests.support.shard_files import write_shard
from trainer_core.data.shards import ShardSpec

SECONDS: Final = 80.0
_WARM = 40
_QUEUED = 50
_TRAINERS = ("trainer-1", "trainer-2", "trainer-3", "trainer-4")
_PROCESSES = ("api", "dispatcher", "indexer", "results", *_TRAINERS)
_COUNTS = """
SELECT count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status = 'queued'),
    max(status_reason->>'code') FILTER (WHERE status = 'failed')
FROM runs
"""
_PENDING = "SELECT tenant_id, digest, kind, spec FROM cache_shards WHERE status <> 'done'"


def memory(seconds: float = SECONDS) -> dict[str, Any]:
    """``growth_kb_per_run`` of each process, after it is warm, and its memory at the end."""
    with running({"trainer": "benchmarks.service.trainer"}) as setting:
        tenant_id, _ = setting.tenant("ada")
        with setting.database.transaction() as conn:
            dataset_id = ready_dataset(conn, tenant_id, 2)
        run = new_run(dataset_id, real_plan(setting))
        setting.start_api()
        setting.start_admission()
        for name in ("results", *_TRAINERS):
            setting.fleet.start(name)
        end_s = time.monotonic() + seconds
        warm: dict[str, int] = {}
        warm_runs = ended = 0
        while time.monotonic() < end_s:
            _build_shards(setting)
            ended, queued = _counts(setting)
            with setting.database.transaction() as conn:
                for _ in range(_QUEUED - queued):
                    runs.create(conn, tenant_id, run)
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
            "warm_pss_mb": {name: round(each / 2**20, 1) for name, each in warm.items()},
            "pss_mb": {name: round(each / 2**20, 1) for name, each in last.items()},
        }


def _counts(setting: Setting) -> tuple[int, int]:
    """Runs that succeeded, and runs that are queued."""
    with setting.database.transaction() as conn:
        row = conn.execute(_COUNTS).fetchone()
    assert row is not None
    succeeded, queued, failure = row
    if failure is not None:
        raise RuntimeError(f"a run failed: {failure}")
    return succeeded, queued


def _build_shards(setting: Setting) -> None:
    """Store something for each entry that is wanted; nobody reads what is in it."""
    with setting.database.transaction() as conn:
        pending = conn.execute(_PENDING).fetchall()
    if not pending:
        return
    store = open_store(Settings.from_env(setting.fleet.env))
    content = setting.folder / "shard.safetensors"
    for tenant_id, digest, kind, spec in pending:
        entries = ShardSpec.model_validate(spec).digests()
        write_shard(content, dict.fromkeys(entries, b"entry"))
        stored = put_shard(store, tenant_id, digest, kind, content)
        with setting.database.transaction() as conn:
            shards.done(conn, tenant_id, digest, stored)
