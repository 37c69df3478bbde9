"""Compiles each kernel for an H100 at its true shapes, on a machine without one.

    TRITON_INTERPRET=0 python -m tests.support.kernel_compiler [WORD]

The interpreter runs kernels as Python, and accepts what the compiler refuses. Here all tensors are
on PyTorch's device without storage: a launch compiles and runs nothing, and a function that reads a
value on the host fails. One line a kernel: its case, registers of a thread, bytes of them that
spill to memory, bytes of shared memory.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import Case, launches

_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


class _Hopper:
    """As much of a driver as the compiler asks: the card to compile for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compiled(case: Case) -> Iterator[str]:
    """One line for each kernel that the case launches, forward and backward."""
    kernels: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels[kernel.hash] = kernel

    JITFunction.run = compile_only
    try:
        for launch in launches(case, torch.device("meta")):
            launch()
    finally:
        JITFunction.run = run
    for kernel in kernels.values():
        registers, stack_bytes = _usage(kernel.asm["cubin"])
        shared_bytes = kernel.metadata.shared
        yield (
            f"{case!s:60} {kernel.metadata.name:24} registers {registers:3}"
            f"  spilled {stack_bytes:4}  shared {shared_bytes:6}"
        )


def _usage(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [_CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = _USAGE.search(done.stdout)
    assert found is not None
    return int(found[1]), int(found[2])


def main() -> None:
    """Compile all cases, or those with a word in their name."""
    driver.set_active(_Hopper())
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for case in CASES:
        if word in case.name:
            print("\n".join(compiled(case)), flush=True)


if __name__ == "__main__":
    main()
