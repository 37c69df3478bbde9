"""One tenant's huge input beside another tenant's small run, over the real processes.

``tests/faults/test_poison.py`` has many more inputs, with training.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.store import datasets
from services.store.database import Database
from services.store.run_rows import Run
from tests.support.dispatching import real_plan
from tests.support.redis import RedisServer
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until

ADMITTED = {"caching", "capacity"}
BOUND_S = 2.0

# A ready dataset of pictures with a caption each.
FILES = """
INSERT INTO dataset_files
    (dataset_id, tenant_id, path, media, size_bytes, sha256, width_px, height_px, text)
SELECT %(dataset_id)s, %(tenant_id)s, lpad(n::text, 6, '0') || suffix, media, %(length)s,
    md5(n::text) || md5(n::text), width_px, width_px, text
FROM generate_series(1, %(pairs)s) AS n, LATERAL (VALUES
    ('.jpg', 'image', 128, NULL),
    ('.txt', 'caption', NULL, left(repeat(md5(n::text), %(length)s / 32 + 1), %(length)s))
) AS file (suffix, media, width_px, text)
"""


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


@pytest.fixture
def bob(ada: TenantDatabase) -> TenantDatabase:
    return ada.neighbour()


@pytest.fixture
def log(
    database_url: str,
    database: Database,
    redis_server: RedisServer,
    described_models_dir: Path,
    tmp_path: Path,
) -> Iterator[Path]:
    """A dispatcher and one cache builder that run and log to this file."""
    env = {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_BROKER_URL": redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
        "REVERIE_SIGNING_KEY": "5f" * 32,
        "REVERIE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "REVERIE_MODELS_DIR": str(described_models_dir),
        "REVERIE_POLL_S": "0.2",
        "OMP_NUM_THREADS": "1",
    }
    path = tmp_path / "log"
    modules = ("services.dispatcher", "services.cache_builder")
    with path.open("wb") as output:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module], env={**os.environ, **env}, stderr=output
            )
            for module in modules
        ]
        try:
            wait_until(lambda: "indexer_up" in path.read_text(), what=path.read_text)
            yield path
        finally:
            for process in processes:
                process.kill()
                process.wait()


def huge(tenant_db: TenantDatabase, *, pairs: int, length: int) -> Run:
    """A run with so many pictures, and captions of this many characters."""
    with tenant_db.database.transaction() as conn:
        dataset_id = datasets.create(conn, tenant_db.tenant_id, "huge", []).dataset_id
        facts = {
            "dataset_id": dataset_id,
            "tenant_id": tenant_db.tenant_id,
            "pairs": pairs,
            "length": length,
        }
        conn.execute(FILES.encode(), facts)
        datasets.complete(conn, tenant_db.tenant_id, dataset_id)
        conn.execute("UPDATE datasets SET status = 'ready' WHERE dataset_id = %s", (dataset_id,))
    return tenant_db.queued(plan=real_plan(), datasets={"photos": dataset_id})


def admission_s(tenant_db: TenantDatabase, log: Path) -> float:
    """Seconds until a new small run is admitted."""
    run_id = tenant_db.queued(plan=real_plan()).run_id
    began_s = time.monotonic()
    wait_until(lambda: tenant_db.run(run_id).stage in ADMITTED, what=log.read_text, every_s=0.02)
    return time.monotonic() - began_s


def test_a_huge_run_does_not_delay_another_tenants(
    ada: TenantDatabase, bob: TenantDatabase, log: Path
) -> None:
    admission_s(bob, log)  # everything is warm
    poison_id = huge(ada, pairs=6_000, length=100).run_id

    def is_being_indexed() -> bool:
        with ada.database.transaction() as conn:
            row = conn.execute(
                "SELECT index_until > clock_timestamp() FROM runs WHERE run_id = %s", (poison_id,)
            ).fetchone()
        return row == (True,)

    wait_until(is_being_indexed, what=log.read_text, every_s=0.02)
    times_s = [admission_s(bob, log)]
    while (ended := end_of(ada, poison_id)) is None:
        times_s.append(admission_s(bob, log))

    assert max(times_s) < BOUND_S, times_s
    assert ended == "admitted"


def end_of(tenant_db: TenantDatabase, run_id: str) -> str | None:
    """``admitted`` or the code of the failure; None until then."""
    run = tenant_db.run(run_id)
    if run.status_reason is not None:
        return str(run.status_reason["code"])
    return "admitted" if run.stage in ADMITTED else None
