"""A worker that cannot work drains, names the reason, and comes back when its checks pass."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from services.domain.failures import infra_failure
from services.domain.ids import new_id
from services.domain.ledger import Worker
from services.store.database import Database
from services.store.ledger import PostgresLedger
from services.workers.health import WorkerHealth
from services.workers.heartbeat import Heartbeat
from services.workers.scratch import Scratch
from tests.support.failing_store import store_in
from tests.support.waiting import wait_until

CHECK = """
import sys, pathlib
assert sys.argv[2:5] == ["check-device", "--device", "cuda"], sys.argv
sys.exit(0 if pathlib.Path(sys.argv[1]).exists() else 1)
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """The GPU computes while this file exists."""
    return tmp_path / "card"


@contextmanager
def worker(
    tmp_path: Path,
    card: Path,
    *,
    scratch_bytes: int = 1,
    needs_gpu: bool = False,
    python: str = sys.executable,
) -> Iterator[WorkerHealth]:
    script = tmp_path / "check.py"
    script.write_text(CHECK)
    models = tmp_path / "models"
    if not models.exists():
        models.mkdir()
    with (
        Scratch(tmp_path / "scratch", new_id("wrk")) as scratch,
        WorkerHealth(
            scratch,
            store_in(tmp_path),
            scratch_bytes=scratch_bytes,
            models_dir=models,
            needs_gpu=needs_gpu,
            program=(python, str(script), str(card)),
            on_change=lambda: None,
        ) as health,
    ):
        yield health


def reason(health: WorkerHealth) -> str | None:
    failure = health.drain_reason
    return None if failure is None else failure.code


def way_out(health: WorkerHealth) -> str:
    failure = health.drain_reason
    return "" if failure is None else failure.message


@pytest.mark.parametrize(
    ("code", "words"), [("gpu_failed", "Reset the GPU"), ("gpu_missing", "REVERIE_GPU_CLASS")]
)
def test_a_worker_drains_until_its_gpu_computes_again(
    tmp_path: Path, card: Path, code: str, words: str
) -> None:
    with worker(tmp_path, card) as health:
        assert health.must_decline() is None
        health.note_failure(infra_failure(code, "The GPU or its driver failed."))
        assert reason(health) == code
        wait_until(
            lambda: words in way_out(health),
            what="a check of the GPU",
            deadline_s=10,
        )
        card.touch()
        wait_until(lambda: reason(health) is None, what="the worker to come back", deadline_s=15)
        assert health.must_decline() is None


def test_a_worker_that_needs_a_gpu_takes_nothing_before_it_has_one(
    tmp_path: Path, card: Path
) -> None:
    with worker(tmp_path, card, needs_gpu=True) as health:
        assert reason(health) == "gpu_missing"
        card.touch()
        wait_until(lambda: reason(health) is None, what="the worker to come back", deadline_s=10)
    with worker(tmp_path, card, needs_gpu=True) as health:
        assert reason(health) is None


def test_a_gpu_that_cannot_be_checked_counts_as_missing(tmp_path: Path, card: Path) -> None:
    card.touch()
    with worker(tmp_path, card, needs_gpu=True, python="/nowhere/python") as health:
        assert reason(health) == "gpu_missing"


def test_a_worker_whose_disk_was_filled_waits_for_the_space_it_promises(
    tmp_path: Path, card: Path
) -> None:
    with worker(tmp_path, card, scratch_bytes=1 << 60) as health:
        assert health.must_decline() is None  # as long as no piece of work needed more
        health.note_failure(infra_failure("worker_disk_full", "The disk is full."))
        wait_until(
            lambda: "REVERIE_SCRATCH_BYTES" in way_out(health),
            what="a check of the disk",
            deadline_s=10,
        )
        assert reason(health) == "worker_disk_full"


def test_a_worker_whose_disk_vanishes_drains(tmp_path: Path, card: Path) -> None:
    with worker(tmp_path, card) as health:
        shutil.rmtree(tmp_path / "scratch")
        declined = health.must_decline()
        assert declined is not None
        assert declined.code == "worker_disk_failed"
        health.note_failure(infra_failure("worker_disk_failed", "The disk failed."))
        wait_until(
            lambda: "REVERIE_SCRATCH_DIR" in way_out(health),
            what="a check of the disk",
            deadline_s=10,
        )


def test_a_worker_without_its_models_says_so_from_the_start(tmp_path: Path, card: Path) -> None:
    models = tmp_path / "models"
    models.touch()  # a file, where a folder should be mounted
    with worker(tmp_path, card) as health:
        assert reason(health) == "base_models_unreadable"
        models.unlink()
        models.mkdir()
        wait_until(lambda: reason(health) is None, what="the worker to come back", deadline_s=10)


def test_failures_that_are_not_the_workers_do_not_drain_it(tmp_path: Path, card: Path) -> None:
    with worker(tmp_path, card) as health:
        for code in ("child_died", "shard_corrupt", "non_finite_loss"):
            health.note_failure(infra_failure(code, "m"))
            assert reason(health) is None


def test_the_heartbeat_carries_the_reason(
    tmp_path: Path, card: Path, database: Database, database_url: str
) -> None:
    def row() -> tuple[bool, str | None] | None:
        with psycopg.connect(database_url) as conn:
            return conn.execute("SELECT draining, drain_reason->>'code' FROM workers").fetchone()

    who = Worker(worker_id=new_id("wrk"), kind="trainer", gpu_class="cpu", version="1")
    with (
        worker(tmp_path, card) as health,
        Heartbeat(
            PostgresLedger(database),
            who,
            every_s=0.05,
            is_draining=lambda: False,
            run_id=lambda: None,
            drain_reason=lambda: health.drain_reason,
        ),
    ):
        wait_until(lambda: row() == (False, None), what="a healthy worker", deadline_s=10)
        health.note_failure(infra_failure("gpu_failed", "m"))
        wait_until(lambda: row() == (True, "gpu_failed"), what="a draining one", deadline_s=10)
        card.touch()
        wait_until(lambda: row() == (False, None), what="a healthy one again", deadline_s=15)
