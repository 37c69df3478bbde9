"""Every kernel compiles for a GPU, whose compiler refuses some of what the interpreter accepts."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.kernel_cases import CASES


def test_every_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kernel_compiler"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )

    assert done.returncode == 0, done.stderr
    for case in CASES:
        assert str(case) in done.stdout, f"{case} launches no kernel"
