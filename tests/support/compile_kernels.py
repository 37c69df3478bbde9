"""Compile the kernels of all cases for the cards that run them, on a machine without one.

    TRITON_INTERPRET=0 python -m tests.support.compile_kernels

Triton's interpreter runs functions that its compiler refuses, or that need more shared memory than
a card has. Here each launch, forward and backward, is replaced by a compilation for its arguments.
Inputs are zeros, and outputs mean nothing. Prints a line a case and card.
"""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import Draw, launches

SHARED_MEMORY_BYTES = {90: 227 * 1024, 80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024}
"""Of one program at most, by compute capability without its point."""


class _Card:
    """What Triton asks about the device before it compiles."""

    capability = 90

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


class _Zeros(Draw):
    """Zeros take no time, and no memory until somebody writes them."""

    def __call__(self, *shape: int, **options: Any) -> torch.Tensor:
        dtype = options.get("dtype", torch.bfloat16)
        return torch.zeros(shape, dtype=dtype).requires_grad_(options.get("has_gradient", False))


_CARD = _Card()


def _compile_only(kernel: Any, grid: Any) -> Any:
    def compile_for(*args: Any, **options: Any) -> None:
        compiled = kernel.run(*args, grid=grid, warmup=True, **options)
        assert compiled.metadata.shared <= SHARED_MEMORY_BYTES[_CARD.capability], kernel

    return compile_for


def main() -> None:
    """Compile case after case; the first error ends it."""
    driver.set_active(_CARD)
    JITFunction.__getitem__ = _compile_only
    for case in CASES:
        _, both = launches(case, _Zeros(torch.device("cpu")))
        for capability in SHARED_MEMORY_BYTES:
            if case.capability <= capability:
                _CARD.capability = capability
                both()
                print(case, capability, flush=True)
        _CARD.capability = 90


if __name__ == "__main__":
    main()
