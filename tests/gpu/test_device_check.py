"""On a GPU machine, the worker's check finds the GPUs, and nothing falls back to the CPU without.

The GPU is taken away by CUDA_VISIBLE_DEVICES, so the machine's own settings stay as they are.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("structlog", reason="a worker needs it")
pytest.importorskip("prometheus_client", reason="a worker needs it")

from services.domain.failures import infra_failure
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
from services.workers.device_check import GpuState, gpu_state
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PROGRAM = (sys.executable, "-m", "trainer_core")


@contextmanager
def worker(folder: Path) -> Iterator[WorkerHealth]:
    (folder / "models").mkdir(exist_ok=True)
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 32)
    with (
        Scratch(folder / "scratch", "wrk") as scratch,
        WorkerHealth(
            scratch,
            FolderStore(folder / "objects", signer),
            scratch_bytes=1,
            models_dir=folder / "models",
            needs_gpu=True,
            program=PROGRAM,
            on_change=lambda: None,
        ) as health,
    ):
        yield health


def test_every_gpu_answers() -> None:
    assert gpu_state(PROGRAM) is GpuState.WORKS


def test_a_worker_with_its_gpu_takes_work(tmp_path: Path) -> None:
    with worker(tmp_path) as health:
        assert health.must_decline() is None


def test_a_worker_without_its_gpu_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_state(PROGRAM) is GpuState.FAILED
    with worker(tmp_path) as health:
        reason = health.must_decline()
        assert reason is not None
        assert reason.code == "gpu_missing"


def test_a_process_that_needs_a_gpu_refuses_the_cpu() -> None:
    script = (
        "from trainer_core.precision.compute import choose_compute; choose_compute('cuda', None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "GpuMissingError" in done.stderr


@pytest.mark.parametrize(
    "left_bytes",
    [3 << 30, 32 << 20],  # too little for the run; for the context of any process
)
def test_a_run_that_others_leave_no_memory_is_not_at_fault(tmp_path: Path, left_bytes: int) -> None:
    free_bytes, _ = torch.cuda.mem_get_info()
    script = (
        "import torch\n"
        "from trainer_core.process.failure import failure_of\n"
        "try:\n"
        "    torch.empty(4 << 30, dtype=torch.uint8, device='cuda')\n"
        "except Exception as error:\n"
        "    failure = failure_of(error)\n"
        "    print(failure.code, failure.category, failure.message)\n"
    )
    with worker(tmp_path) as health:
        held = torch.empty(free_bytes - left_bytes, dtype=torch.uint8, device="cuda")
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("gpu_memory_taken infra Other processes hold ")
        assert gpu_state(PROGRAM) is GpuState.MEMORY_TAKEN

        health.note_failure(infra_failure("gpu_memory_taken", ""))
        assert health.must_decline() is not None
        del held
        torch.cuda.empty_cache()
        end_s = time.monotonic() + 60
        while health.must_decline() is not None and time.monotonic() < end_s:
            time.sleep(0.2)
        assert health.must_decline() is None


def test_a_run_that_is_too_large_for_an_empty_gpu_is_at_fault() -> None:
    script = (
        "import torch\n"
        "from trainer_core.process.failure import failure_of\n"
        "kept = []\n"
        "try:\n"
        "    while True:\n"
        "        kept.append(torch.empty(8 << 30, dtype=torch.uint8, device='cuda'))\n"
        "except torch.OutOfMemoryError as error:\n"
        "    print(failure_of(error).code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "out_of_memory\n"
