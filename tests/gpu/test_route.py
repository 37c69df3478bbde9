"""On a GPU, the choice of experts is that of PyTorch, up to the rounding of the logits."""

import os

import pytest
import torch
from torch.nn import functional

from trainer_core.kernels.route import route

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("N", "F", "E", "K"), [(4480, 2560, 4, 2), (77, 2560, 16, 3)])
def test_the_choice_is_that_of_pytorch(N: int, F: int, E: int, K: int, dtype: torch.dtype) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    rows = torch.randn(N, F, generator=generator, device="cuda").to(dtype)
    gate = (torch.randn(E, F, generator=generator, device="cuda") / F**0.5).to(dtype)

    probability, chosen, weight = route(rows, gate, K)

    # Sums in another order round a logit in a thousand to the other neighbour.
    wanted = functional.linear(rows, gate).softmax(-1)
    torch.testing.assert_close(probability, wanted, rtol=2e-2, atol=1e-4)
    if dtype is torch.bfloat16:
        assert (probability != wanted).float().mean() < 0.02
    values, experts = probability.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(chosen, experts[:, :K])
    assert torch.equal(weight, values[:, :K])
