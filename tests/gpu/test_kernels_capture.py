"""Each kernel can be captured into a CUDA graph, and gives the same bits there and outside."""

import os

import pytest
import torch

from benchmarks.kernel_cases import CASES
from benchmarks.kernel_cases.case import Case, Draw, Inputs, Quantized

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)
DEVICE = torch.device("cuda")


def results(case: Case, inputs: Inputs) -> list[torch.Tensor]:
    """All outputs, and all gradients where each output is its own gradient."""
    parts: list[torch.Tensor] = []
    for output in case.kernel(*inputs):
        parts += output if isinstance(output, Quantized) else [output]
    steered = [each for each in parts if each.requires_grad]
    trained = [each for each in inputs if isinstance(each, torch.Tensor) and each.requires_grad]
    if steered:
        parts += torch.autograd.grad(steered, trained, [each.detach() for each in steered])
    return [each.detach() for each in parts]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_captured_kernel_gives_the_same_bits(case: Case) -> None:
    wanted = results(case, case.make(Draw(DEVICE)))
    again = results(case, case.make(Draw(DEVICE)))
    inputs = case.make(Draw(DEVICE))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(case, inputs)
    graph.replay()
    torch.cuda.synchronize()

    for first, second, third in zip(wanted, again, captured, strict=True):
        bits = first.contiguous().view(torch.uint8)
        assert torch.equal(bits, second.contiguous().view(torch.uint8))
        assert torch.equal(bits, third.contiguous().view(torch.uint8))
