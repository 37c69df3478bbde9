"""Triton's compiler accepts every kernel at the model's shapes. It needs no card for that."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.kernel_cases import CASES

ROOT = Path(__file__).parents[2]


def test_every_kernel_compiles_for_a_hopper_card() -> None:
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
    assert done.stdout.splitlines() == [str(case) for case in CASES]
