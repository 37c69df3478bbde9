"""On a GPU machine, the worker's check finds the GPUs, and nothing falls back to the CPU without.

The GPU is taken away by CUDA_VISIBLE_DEVICES, so the machine's own settings stay as they are.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("structlog", reason="a worker needs it")
pytest.importorskip("prometheus_client", reason="a worker needs it")

from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
from services.workers.device_check import gpu_answers
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
    assert gpu_answers(PROGRAM)


def test_a_worker_with_its_gpu_takes_work(tmp_path: Path) -> None:
    with worker(tmp_path) as health:
        assert health.must_decline() is None


def test_a_worker_without_its_gpu_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu_answers(PROGRAM)
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
