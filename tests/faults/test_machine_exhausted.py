"""F29, F33: a trainer's machine has no file handle, no GPU memory, or no memory left."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_host import TrainerHost, claimable_again, open_host

pytestmark = pytest.mark.deep

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
MEMORY_BYTES = 96 << 20


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[TrainerHost]:
    with open_host(tmp_path, database_url) as host:
        yield host


def assert_another_worker_ends_it(host: TrainerHost) -> None:
    claimable_again(host)
    assert host.end_of(host.start("finish")) == 0
    assert host.run()["status"] == "succeeded", host.logs()


def test_a_run_that_meets_the_limit_of_open_files_is_handed_back(host: TrainerHost) -> None:
    few = ["prlimit", "--nofile=256"]

    assert host.end_of(host.start("open-files", launcher=few)) == 0, host.logs()

    ((outcome, _, code, _),) = host.attempts()
    assert (outcome, code) == ("failed", "too_many_open_files"), host.logs()
    run = host.run()
    assert (run["status"], run["checkpoint_step"]) == ("queued", 4)
    assert_another_worker_ends_it(host)


def test_a_run_too_large_for_the_gpu_fails_with_advice_and_the_worker_takes_the_next(
    host: TrainerHost,
) -> None:
    assert host.end_of(host.start("use-gpu-memory", rings=2)) == 0

    ((outcome, _, code, _),) = host.attempts()
    assert (outcome, code) == ("failed", "out_of_memory"), host.logs()
    run = host.run()
    assert run["status"] == "failed"  # the next attempt would need the same
    assert "Lower train_batch_size" in run["status_reason"]["message"]
    assert host.logs().count("ring_ignored") == 1
    assert "worker_draining" not in host.logs()


@pytest.fixture
def small_memory(host: TrainerHost) -> Iterator[str]:
    """A Python whose processes share a little memory."""
    group = MEMORY_GROUPS / f"reverie-{host.run_id}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
    except OSError as error:
        pytest.skip(f"needs a memory control group of its own: {error}")
    python = host.folder / "python"
    python.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    yield str(python)
    for process in host.processes:
        process.kill()
        process.wait()
    subprocess.run(["rmdir", str(group)], check=True)


def test_a_training_process_that_the_kernel_kills_for_memory_is_tried_again(
    host: TrainerHost, small_memory: str
) -> None:
    assert host.end_of(host.start("use-memory", python=small_memory)) == 0

    ((outcome, _, code, message),) = host.attempts()
    assert (outcome, code) == ("failed", "child_died"), host.logs()
    assert "SIGKILL" in message
    assert host.run()["checkpoint_step"] == 4
    assert_another_worker_ends_it(host)
