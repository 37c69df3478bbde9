"""Triton is optional, and is never chosen for a CPU tensor."""

import os
import subprocess
import sys

import torch

from trainer_core.kernels.triton_support import next_power_of_2, runs_triton

_WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import importlib, pkgutil, trainer_core.kernels as kernels
names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
for name in names:
    importlib.import_module(f"trainer_core.kernels.{name}")
print(len(names))
"""


def test_every_kernel_module_is_imported_without_triton() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TRITON],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


def test_a_cpu_tensor_uses_the_plain_functions() -> None:
    assert not runs_triton(torch.zeros(2))


def test_the_block_that_holds_a_row() -> None:
    assert [next_power_of_2(n) for n in (1, 2, 3, 2560, 4096, 6912)] == [1, 2, 4, 4096, 4096, 8192]
