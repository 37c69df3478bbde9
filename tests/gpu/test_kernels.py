"""Each kernel at a true shape equals PyTorch in float64, up to the rounding of its outputs.

Run by `make test-gpu` on a machine with a CUDA device.
"""

import os

import pytest
import torch

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import (
    NAMES,
    Case,
    Draw,
    capability_of,
    errors,
    is_for_this_card,
    launches,
)
from trainer_core.kernels.rows8 import rows_to_8_bits_triton

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)


def skip_unless_it_has(capability: int) -> None:
    if not is_for_this_card(capability):
        pytest.skip(f"needs a card of capability {capability / 10}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kernel_equals_pytorch(case: Case) -> None:
    skip_unless_it_has(case.capability)
    for name, error, bound in errors(case, Draw(torch.device("cuda"))):
        assert error < bound, name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cuda_graph_repeats_the_kernels(case: Case) -> None:
    skip_unless_it_has(case.capability)
    _, both = launches(case, Draw(torch.device("cuda")))
    wanted = both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    # A kernel may return a tensor that existed before the capture, or write into its input.
    written = [
        (one, other)
        for one, other in zip(found, wanted, strict=True)
        if one.data_ptr() != other.data_ptr()
    ]
    for one, _ in written:
        one.detach().view(torch.uint8).fill_(255)

    graph.replay()

    for one, other in written:
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_so_in_every_product(odd: float, dtype: torch.dtype) -> None:
    skip_unless_it_has(capability_of(dtype))
    x = torch.ones(2, 2560, device="cuda")
    x[0, 1000] = odd

    rows8, scale = rows_to_8_bits_triton(x, dtype=dtype)

    assert (rows8.float().sum(1) * scale).isfinite().tolist() == [False, True]
