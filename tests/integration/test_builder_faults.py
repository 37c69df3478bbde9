"""A shard whose encoder fails: what counts as a try, and whether the builder drains.

A short program takes the encoder's place: it answers every request with one failure.
"""

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from services.cache_builder.build import Builder
from services.processes.request_child import RequestChild
from services.store import admission
from services.store.database import Database
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from tests.support.failing_store import store_in
from tests.support.runs import TenantDatabase, shard_digest
from trainer_core.data.index import Caption
from trainer_core.data.shards import ShardSpec

SPEC = ShardSpec(kind="text", encoder={}, entries=(Caption(text="a wall"),))
ENCODER = textwrap.dedent(
    """
    import json, os, sys
    reply_fd, code = int(sys.argv[sys.argv.index("--reply-fd") + 1]), sys.argv[1]
    open(sys.argv[2], "w").write(str(os.getpid()))
    for line in sys.stdin:
        error = {"code": code, "category": "infra", "message": "m", "retryable": True}
        reply = {"id": json.loads(line)["id"], "ok": False, "error": error}
        os.write(reply_fd, json.dumps(reply).encode() + b"\\n")
    """
)


@contextmanager
def builder(database: Database, folder: Path, code: str) -> Iterator[Builder]:
    store = store_in(folder)
    with (
        Scratch(folder / "scratch", "wrk") as scratch,
        RequestChild(
            (sys.executable, "-c", ENCODER, code, str(folder / "encoder_pid")), env=os.environ
        ) as encoder,
        WorkerHealth(
            scratch,
            store,
            scratch_bytes=1 << 60,
            models_dir=folder,
            needs_gpu=False,
            program=(sys.executable, "-c", "import sys; sys.exit(1)"),  # no GPU computes
            on_change=lambda: None,
        ) as health,
    ):
        yield Builder(
            database=database, objects=store, encoder=encoder, scratch=scratch, health=health
        )


@pytest.mark.parametrize(
    ("code", "reason", "tries"),
    [
        ("disk_full", "worker_disk_full", 0),
        ("gpu_failed", "gpu_failed", 1),  # perhaps it is the shard's doing
        ("gpu_memory_taken", "gpu_memory_taken", 0),
        ("shard_torn", None, 1),
    ],
)
def test_a_machine_that_fails_drains(
    database: Database, tmp_path: Path, code: str, reason: str | None, tries: int
) -> None:
    ada = TenantDatabase.new(database)
    ada.caching()
    with database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET spec = %s", (Jsonb(SPEC.model_dump(mode="json")),))

    with builder(database, tmp_path, code) as it:
        it.answer_ring(ada.tenant_id, shard_digest())
        drains = it.health.drain_reason

        pid = (tmp_path / "encoder_pid").read_text()
        is_running = Path("/proc", pid).exists()

    assert (None if drains is None else drains.code) == reason
    assert is_running == (code not in ("gpu_failed", "gpu_memory_taken"))
    with database.transaction() as conn:
        row = conn.execute("SELECT status, attempts FROM cache_shards").fetchone()
    assert row == ("pending", tries)


def test_a_shard_of_another_version_is_not_built_and_fails_no_run_that_is_indexed_again(
    database: Database, tmp_path: Path
) -> None:
    ada = TenantDatabase.new(database)
    older, newer = ada.caching().run_id, ada.caching().run_id
    spec = SPEC.model_dump(mode="json") | {"version": 1}
    with database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET spec = %s", (Jsonb(spec),))
        conn.execute("UPDATE run_documents SET index_version = NULL WHERE run_id = %s", (older,))

    with builder(database, tmp_path, "shard_torn") as it:
        it.answer_ring(ada.tenant_id, shard_digest())
        assert it.health.drain_reason is None
    assert not (tmp_path / "encoder_pid").exists(), "nothing was encoded"

    with database.transaction() as conn:
        row = conn.execute("SELECT status, attempts, error FROM cache_shards").fetchone()
        assert row is not None
        status, tries, error = row
        assert (status, tries, error["code"]) == ("failed", 1, "shard_of_other_version")
        assert admission.runs_cached(conn, 10) == [newer], "of its own version, it fails"
        assert admission.readmit_older(conn, 10) == 1
    assert (ada.run(older).status, ada.run(older).stage) == ("queued", "admission")
