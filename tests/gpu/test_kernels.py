"""Each kernel at a true shape equals PyTorch in float64, up to the rounding of its outputs.

Run by `make test-gpu` on a machine with a CUDA device.
"""

import os

import pytest
import torch

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import Case, errors

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kernel_equals_pytorch(case: Case) -> None:
    for name, error, bound in errors(case, torch.device("cuda")):
        assert error < bound, name
