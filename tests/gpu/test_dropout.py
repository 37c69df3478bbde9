"""On a GPU, dropout draws the mask that the interpreter draws."""

import os

import pytest
import torch

from tests.unit.test_kernels_dropout import FIRST_MASK, SEED
from trainer_core.kernels.dropout import dropout

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)


def test_the_mask_is_that_of_the_interpreter() -> None:
    kept = dropout(torch.ones(64, device="cuda"), 0.3, SEED.cuda(), 0) != 0

    assert sum(int(bit) << i for i, bit in enumerate(kept.tolist())) == FIRST_MASK


def test_mean_and_variance_of_a_large_input() -> None:
    ones = torch.ones(20_000_000, device="cuda")

    dropped = dropout(ones, 0.25, SEED.cuda(), 3)

    # Kept values are 4 / 3, so the mean is 1 and the variance 1 / 3.
    assert abs(float(dropped.double().mean()) - 1) < 5 * (1 / 3 / len(ones)) ** 0.5
    assert float(dropped.double().var()) == pytest.approx(1 / 3, rel=0.002)
