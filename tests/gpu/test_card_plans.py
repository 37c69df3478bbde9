"""On a CUDA card, weights of the host give the results of weights on the card, in less memory.

HiDream-I1's true width with few blocks and random weights, at 512 px.
"""

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from benchmarks.step.plans import quick_start
from benchmarks.step.weights import fill_adapter, random_base
from trainer_core.base_models.known import FLAVOURS, KNOWN_MODELS
from trainer_core.config.plan import LokrAdapter, MatmulKind, Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.hidream.network import Network, prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.memory.card_plan import CardNeeds, CardPlan, card_needs, host_linears
from trainer_core.memory.fused_model import FusedModel
from trainer_core.memory.fused_weights import fused_weights
from trainer_core.precision.compute import Compute

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)

CUDA = torch.device("cuda")
CONFIG: Mapping[str, Any] = {
    **KNOWN_MODELS[FLAVOURS["full"]].transformer,
    "num_layers": 2,
    "num_single_layers": 3,
    "llama_layers": [0, 1, 2, 3, 3],
}
BLOCKS = frozenset(range(5))
IMAGE_PX = 512**2
CELLS = 64
MATMULS: list[MatmulKind] = ["fp8", "int8", "no_change"]


def plan_of(matmul: MatmulKind) -> Plan:
    """The quick-start's plan, for the blocks that there are."""
    plan = quick_start(
        {
            "device": "cuda",
            "mixed_precision": "bf16",
            "base_model_precision": "no_change" if matmul == "no_change" else "int8-quanto",
            "quantize_via": "accelerator",
        }
    )
    adapter = plan.identity.adapter
    assert isinstance(adapter, LokrAdapter)
    paths = {linear.path for linear in hidream_linears(CONFIG)}
    modules = tuple(module for module in adapter.modules if module.path in paths)
    few = adapter.model_copy(update={"modules": modules})
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"adapter": few})})


def model_and_needs(matmul: MatmulKind) -> tuple[FusedModel, CardNeeds]:
    plan = plan_of(matmul)
    model = FusedModel.of(plan, CONFIG, matmul)
    return model, card_needs(plan, model, fused_weights(model), image_px=IMAGE_PX)


def network_of(matmul: MatmulKind, card: CardPlan) -> Network:
    """With equal weights and an adapter away from zero."""
    model, _ = model_and_needs(matmul)
    base = random_base(
        CONFIG,
        device=CUDA,
        dtype=torch.bfloat16,
        matmul=matmul,
        on_host=host_linears(model, card),
    )
    compute = Compute(device=CUDA, weights=torch.bfloat16, is_autocast=False)
    network = prepare(base, plan_of(matmul), compute, matmul=matmul, preparation=(), card=card)
    fill_adapter(network.trained, drawn_on=CUDA)
    assert network.capture_refusal is None
    return network


@dataclass(frozen=True)
class Inputs:
    """One sample."""

    noisy_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    text: TextEmbeddings

    @classmethod
    def drawn(cls, seed: int) -> "Inputs":
        draw = torch.Generator(CUDA).manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw, device=CUDA, dtype=torch.bfloat16)

        t5, llama = CONFIG["caption_channels"]
        layers = max(CONFIG["llama_layers"]) + 1
        return cls(
            normal(1, 16, CELLS, CELLS),
            1000 * torch.rand(1, generator=draw, device=CUDA),
            TextEmbeddings(
                normal(1, 128, t5),
                normal(1, layers, 128, llama),
                normal(1, CONFIG["text_emb_dim"]),
            ),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        text = self.text
        return self.noisy_BCHW, self.timesteps_B, text.t5, text.llama, text.pooled


@dataclass(frozen=True)
class Results:
    """Of a step: the base's prediction, the adapter's, and the flat gradient."""

    base: torch.Tensor
    velocity: torch.Tensor
    gradient: torch.Tensor

    def copied(self) -> "Results":
        return Results(self.base.clone(), self.velocity.clone(), self.gradient.clone())


def results_of(network: Network, inputs: Inputs) -> Results:
    """Not copied: the gradient is the network's own."""
    assert network.flat is not None
    network.flat.clear_gradients()
    arguments = inputs.noisy_BCHW, inputs.timesteps_B, inputs.text
    base = network.base_velocity(*arguments)
    velocity = network.velocity(*arguments).velocity_BCHW
    velocity.float().square().mean().backward()  # type: ignore[no-untyped-call]
    gradient = network.flat.values.grad
    assert gradient is not None
    return Results(base, velocity.detach(), gradient)


def free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def held_bytes() -> int:
    free_memory()
    return torch.cuda.memory_allocated()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@dataclass(frozen=True)
class Resident:
    """What a network computes whose weights are all on the card."""

    seeds: tuple[int, ...]
    results: tuple[Results, ...]
    noise: float
    """How far two gradients of the same step are apart: attention adds in no fixed order."""
    held_bytes: int
    peak_bytes: int


@pytest.fixture(scope="module", params=MATMULS)
def resident(request: pytest.FixtureRequest) -> tuple[MatmulKind, Resident]:
    """Every block is recomputed, as where the host holds weights."""
    matmul: MatmulKind = request.param
    before = held_bytes()
    network = network_of(matmul, model_and_needs(matmul)[1].planned(BLOCKS))
    held, seeds = held_bytes() - before, (1, 2)
    batches = [Inputs.drawn(seed) for seed in seeds]
    results = tuple(results_of(network, batch).copied() for batch in batches)
    torch.cuda.reset_peak_memory_stats()
    noise = max(
        distance(results_of(network, batch).gradient, result.gradient)
        for batch, result in zip(batches, results, strict=True)
    )
    peak = torch.cuda.max_memory_allocated() - before
    del network
    free_memory()
    return matmul, Resident(seeds, results, noise, held, peak)


def plans(matmul: MatmulKind) -> dict[str, CardPlan]:
    _, needs = model_and_needs(matmul)
    return {
        "streamed": needs.planned(streams=True),
        "some blocks offloaded": needs.planned(BLOCKS, {0, 2, 3}),
        "all offloaded and streamed": needs.planned(BLOCKS, BLOCKS, streams=True),
    }


NAMES = ["streamed", "some blocks offloaded", "all offloaded and streamed"]


def check(found: Results, wanted: Results, noise: float) -> None:
    assert torch.equal(found.base, wanted.base)
    assert torch.equal(found.velocity, wanted.velocity)
    assert found.gradient.isfinite().all()
    assert distance(found.gradient, wanted.gradient) <= 4 * noise


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_host_give_the_same_results_in_less_memory(
    resident: tuple[MatmulKind, Resident], name: str
) -> None:
    matmul, wanted = resident
    card = plans(matmul)[name]
    before = held_bytes()
    network = network_of(matmul, card)

    _, needs = model_and_needs(matmul)
    weights = needs.weights
    moved = weights.on_card(streamed=False, offloaded=frozenset()) - weights.on_card(
        streamed=card.streams_conditioning, offloaded=card.offloaded
    )
    assert moved > 0
    # The biases, of less than 1 %, stay on the card.
    assert wanted.held_bytes - (held_bytes() - before) >= 0.98 * moved
    batches = [Inputs.drawn(seed) for seed in wanted.seeds]
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        for batch, result in zip(batches, wanted.results, strict=True):
            check(results_of(network, batch), result, wanted.noise)
    if card.recomputed == BLOCKS:
        peak = torch.cuda.max_memory_allocated() - before
        assert wanted.peak_bytes - peak >= 0.98 * moved
    del network
    free_memory()


@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_graph_repeats_the_copies(resident: tuple[MatmulKind, Resident], name: str) -> None:
    matmul, wanted = resident
    network = network_of(matmul, plans(matmul)[name])
    batches = [Inputs.drawn(seed) for seed in wanted.seeds]
    static = Inputs.drawn(0)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            results_of(network, static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = results_of(network, static)

    for _ in range(2):
        for batch, result in zip(batches, wanted.results, strict=True):
            for place, value in zip(static.tensors(), batch.tensors(), strict=True):
                place.copy_(value)
            graph.replay()
            check(found, result, wanted.noise)
        # Between two replays, a step without the graph leaves other weights in the slots.
        check(results_of(network, batches[0]), wanted.results[0], wanted.noise)
    del graph, found, network
    free_memory()
