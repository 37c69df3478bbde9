"""What one step of ours costs beside diffusers with LyCORIS: the same weights, adapter and batch.

Times are measured on a GPU by `make bench-step`. What makes them is counted here on a CPU: reads
of the host, operations, FLOPs of matrix products, and bytes kept for the backward pass. Plain
blocks are what a CPU trains with. Fused blocks are counted over the plain twins of their kernels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from torch.nn import functional

from benchmarks.step.cases import Case, select
from benchmarks.step.flops import Flops, forward_flops
from benchmarks.step.peers import Peer
from benchmarks.step.plans import plan_of
from benchmarks.step.setting import CAPTION_TOKENS, tiny_setting
from benchmarks.step.weights import fill_adapter, random_model
from tests.support.lycoris_oracle import presets_put_back
from tests.support.step_counts import StepCounts, count_step, flop_counter
from trainer_core.config.plan import Plan
from trainer_core.engine.batch import Batch
from trainer_core.engine.step import SingleProcess
from trainer_core.hidream.fused.build import fused_blocks
from trainer_core.hidream.network import Network, prepare
from trainer_core.optim import guarded
from trainer_core.precision.compute import choose_compute

SETTING: Final = tiny_setting()
LAYERS: Final = 3
READ_AFTERWARDS: Final = "trainer_core/engine/pending.py:read"
"""Reads the numbers of a step that is done, while the next one runs."""
PLAIN_EXPERTS: Final = "trainer_core/hidream/plain_blocks.py:_separate_experts"


@dataclass(frozen=True, kw_only=True)
class Counted:
    checkpointing: bool
    plain: StepCounts
    fused: StepCounts
    peer: StepCounts


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "checkpointed"])
def counted(request: pytest.FixtureRequest) -> Counted:
    (case,) = select("512-bf16-ckpt" if request.param else "512-bf16")
    batch = SETTING.batch(case)
    with presets_put_back():
        peer = Peer("diffusers", "bf16", "attention", SETTING)
    peer.set_checkpointing(on=request.param)
    return Counted(
        checkpointing=request.param,
        plain=count_ours(case, batch, fused=False),
        fused=count_ours(case, batch, fused=True),
        peer=count(lambda: peer.step(batch), peer.held(), batch),
    )


def count_ours(case: Case, batch: Batch, *, fused: bool) -> StepCounts:
    plan = plan_of(case, SETTING)
    network = network_of(plan)
    if fused:
        network = with_fused_blocks(network, recomputes=case.checkpointing)
    backend = SingleProcess(network, plan)
    transformer = network.transformer
    held = (*transformer.parameters(), *transformer.buffers(), *network.trained.values())

    def step() -> None:
        backend.launch([batch], count=1, step=1, learning_rate=1e-5).read()

    with pytest.MonkeyPatch.context() as patch:
        # As on a card, where the host does not know whether a step was finite.
        patch.setattr(guarded, "host_knows", lambda flag: False)
        return count(step, held, batch)


def network_of(plan: Plan) -> Network:
    transformer = random_model(
        HiDreamImageTransformer2DModel,
        SETTING.transformer,
        drawn_on=SETTING.device,
        device=SETTING.device,
        dtype=SETTING.dtype,
    )
    network = prepare(transformer, plan, choose_compute("cpu", plan.identity.precision))
    fill_adapter(network.trained, drawn_on=SETTING.device)
    return network


def with_fused_blocks(network: Network, *, recomputes: bool) -> Network:
    blocks = fused_blocks(
        network.transformer,
        recomputed=frozenset(range(3)) if recomputes else frozenset(),
        keeps_transposed=False,
    )
    return replace(network, blocks=blocks)


def count(step: Callable[[], object], held: Iterable[torch.Tensor], batch: Batch) -> StepCounts:
    inputs = [batch.noisy_BCHW, batch.target_BCHW, batch.sigmas_B, *batch.text.tensors().values()]
    return count_step(step, [*held, *inputs])


def flops_of_the_base(*, without_unused: bool) -> Flops:
    (case,) = select("512-bf16")
    return forward_flops(
        SETTING.transformer,
        image_tokens=SETTING.image_tokens(case),
        caption_tokens=CAPTION_TOKENS,
        without_unused=without_unused,
    )


def test_the_host_reads_nothing_within_a_step(counted: Counted) -> None:
    assert counted.fused.host_reads.keys() == {READ_AFTERWARDS}
    assert counted.fused.host_reads[READ_AFTERWARDS] == 1
    assert counted.plain.host_reads == {
        READ_AFTERWARDS: 1,
        PLAIN_EXPERTS: 2 * LAYERS if counted.checkpointing else LAYERS,
    }
    assert sum(counted.peer.host_reads.values()) >= 60


def test_ours_takes_fewer_operations(counted: Counted) -> None:
    assert counted.fused.operations < counted.plain.operations < counted.peer.operations


def test_flops_are_those_of_the_base_and_little_more(counted: Counted) -> None:
    """LyCORIS builds each delta as a matrix as large as its weight, and its gradient too."""
    base = flops_of_the_base(without_unused=True)
    least = base.checkpointed_step if counted.checkpointing else base.step

    assert least <= counted.plain.flops <= 1.02 * least
    assert counted.fused.flops <= 1.05 * least
    if counted.checkpointing:  # what a block ends with is not computed again
        assert counted.fused.flops < counted.plain.flops
    assert counted.peer.flops >= 2.3 * counted.fused.flops


def test_a_forward_leaves_out_the_work_that_nobody_uses() -> None:
    """Exactly: the adapter is off."""
    (case,) = select("512-bf16")
    batch = SETTING.batch(case)
    network = network_of(plan_of(case, SETTING))

    with flop_counter() as counter:
        network.base_velocity(batch.noisy_BCHW, 1000 * batch.sigmas_B, batch.text)

    assert counter.get_total_flops() == flops_of_the_base(without_unused=True).forward
    assert counter.get_total_flops() < flops_of_the_base(without_unused=False).forward


def test_bytes_kept_for_the_backward_pass(counted: Counted) -> None:
    # Of a recomputed block only its inputs are kept.
    most = 2e6 if counted.checkpointing else counted.peer.saved_bytes / 1.8
    for ours in (counted.plain, counted.fused):
        assert ours.saved_bytes < most
        assert ours.saved_bytes < counted.peer.saved_bytes


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
