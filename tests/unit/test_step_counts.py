"""What one step of ours costs beside diffusers with LyCORIS: the same weights, adapter and batch.

Times are measured on a GPU by `make bench-step`. What makes them is counted here on a CPU: reads
of the host, operations, FLOPs of matrix products, and bytes kept for the backward pass.
"""

from dataclasses import dataclass
from typing import Final

import pytest
import torch
from torch.nn import functional

from benchmarks.step.cases import select
from benchmarks.step.flops import Flops, forward_flops
from benchmarks.step.ours import Ours
from benchmarks.step.peers import Peer
from benchmarks.step.setting import CAPTION_TOKENS, tiny_setting
from tests.support.lycoris_oracle import presets_put_back
from tests.support.step_counts import StepCounts, count_step

HOST_READS: Final = {False: 4, True: 4}
"""Reads of the host in a step of ours at most, without and with gradient checkpointing: on a CPU
each block with experts reads how many rows each of them gets, and the step reads its metrics."""
OPERATIONS: Final = {False: 1348, True: 1832}
"""Operations of a step of ours at most."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    checkpointing: bool
    ours: StepCounts
    peer: StepCounts
    flops: Flops


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "checkpointed"])
def counted(request: pytest.FixtureRequest) -> Counted:
    setting = tiny_setting()
    (case,) = select("512-bf16-ckpt" if request.param else "512-bf16")
    batch = setting.batch(case)
    inputs = [batch.noisy_BCHW, batch.target_BCHW, batch.sigmas_B, *batch.text.tensors().values()]
    ours = Ours(case, setting)
    with presets_put_back():
        peer = Peer("diffusers", "bf16", "attention", setting)
    peer.set_checkpointing(on=request.param)
    return Counted(
        checkpointing=request.param,
        ours=count_step(lambda: ours.step(batch), [*ours.held(), *inputs]),
        peer=count_step(lambda: peer.step(batch), [*peer.held(), *inputs]),
        flops=forward_flops(
            setting.transformer,
            image_tokens=setting.image_tokens(case),
            caption_tokens=CAPTION_TOKENS,
        ),
    )


def test_reads_of_the_host(counted: Counted) -> None:
    assert sum(counted.ours.host_reads.values()) <= HOST_READS[counted.checkpointing], (
        counted.ours.host_reads
    )
    assert sum(counted.peer.host_reads.values()) >= 60


def test_operations(counted: Counted) -> None:
    assert counted.ours.operations <= OPERATIONS[counted.checkpointing]


def test_flops_are_those_of_the_base_and_little_more(counted: Counted) -> None:
    """LyCORIS builds each delta as a matrix as large as its weight, and its gradient too."""
    flops = counted.flops
    # This attention keeps its scores, so its backward takes four products and not five.
    least = flops.step - flops.attention // 2
    if counted.checkpointing:
        least += flops.checkpointed_step - flops.step

    assert counted.ours.flops <= 1.02 * least
    assert counted.peer.flops >= 1.15 * counted.ours.flops


def test_bytes_kept_for_the_backward_pass(counted: Counted) -> None:
    assert counted.ours.saved_bytes < counted.peer.saved_bytes
    if counted.checkpointing:
        # Of each block only its inputs.
        assert counted.ours.saved_bytes < 2e6


def test_the_counter_sees_each_way_of_reading() -> None:
    values = torch.rand(8)
    mask = values > 0.5

    def read(how: str) -> None:
        match how:
            case "item":
                values.sum().item()
            case "if":
                bool(values.any())
            case "tolist":
                values.tolist()
            case "cpu":
                values.cpu()
            case "mask":
                values[mask]
            case "write by mask":
                values[mask] = 0
            case "nonzero":
                values.nonzero()
            case "where":
                torch.where(mask)

    for how in ("item", "if", "tolist", "cpu", "mask", "write by mask", "nonzero", "where"):
        counts = count_step(lambda how=how: read(how), [])
        assert sum(counts.host_reads.values()) == 1, how
    index = torch.arange(3)
    assert not count_step(lambda: values[index] + values[:3], []).host_reads


def test_the_counter_counts_operations_products_and_saved_bytes() -> None:
    weight = torch.rand(6, 5, requires_grad=True)
    input_ = torch.rand(4, 5)

    def step() -> None:
        functional.linear(input_, weight).exp().view(24).sum().backward()
        weight.grad = None

    counts = count_step(step, [weight, input_])

    assert counts.flops == 2 * (2 * 4 * 5 * 6)  # the product, and the weight's gradient
    assert counts.saved_bytes == 4 * 6 * 4  # the result of exp, in fp32
    # Product, exp, sum; ones, mul with the result of exp, product.
    assert counts.operations == 6
