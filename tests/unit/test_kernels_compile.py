"""Triton's compiler accepts every kernel at the model's shapes. It needs no card for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernel_cases import CASES
from tests.support.compile_kernels import SHARED_MEMORY_BYTES

ROOT = Path(__file__).parents[2]


@pytest.mark.deep
def test_every_kernel_compiles_for_the_cards_that_run_it() -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(ROOT / ".cache" / "triton"),
    }

    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compile_kernels"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{case} {capability}"
        for case in CASES
        for capability in SHARED_MEMORY_BYTES
        if case.capability <= capability
    ]
