"""The fused blocks compute what the plain blocks compute: output, losses and every gradient.

They run on the CPU here, over the plain twins of the kernels, so the hand-written gradients are
compared in float64. ``tests/gpu`` compares the kernels.
"""

import copy
import gc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel

from tests.support.networks import network_of
from tests.unit.hidream_oracle import Question, model_of
from tests.unit.lora_examples import lora
from trainer_core.adapters.attach import attach_adapter
from trainer_core.adapters.lora import SeededDropout
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.config.simpletuner.lokr import lokr_of
from trainer_core.config.simpletuner.reading import Findings
from trainer_core.hidream.balance import ExpertGate
from trainer_core.hidream.fused.blocks import FusedBlocks
from trainer_core.hidream.fused.build import can_group, fused_blocks
from trainer_core.hidream.network import Network
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.optim.flat import FlatParameters
from trainer_core.precision.compute import Compute
from trainer_core.precision.linear8 import Linear8, hold_in_8bit

CPU64 = Compute(device=torch.device("cpu"), weights=torch.float64, is_autocast=False)
FULL = {"full_matrix": True, "factor": 8, "use_scalar": True}
LOW_RANK = {"linear_dim": 2, "linear_alpha": 1, "factor": 4, "use_scalar": False}
ATTENTION = ("attn1.to_q", "attn1.to_k_t", "attn1.to_v", "attn1.to_out")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a network is made of, and what it is asked."""

    shape: str = "small"
    size: tuple[int, int] = (8, 8)
    lokr: Mapping[str, Any] | None = field(default_factory=lambda: FULL)
    rank: int | None = None
    dropout: float = 0.0
    """Of LoRA."""
    only: tuple[str, ...] = ()
    """Parts of the paths to adapt; empty: every linear."""
    padded: bool = False
    balanced: bool = False
    is_recomputed: bool = False
    keeps_transposed: bool = False


CASES = {
    "attention": Case(only=ATTENTION),
    "all linears": Case(),
    "all linears, recomputed": Case(is_recomputed=True, balanced=True),
    "low rank": Case(lokr=LOW_RANK),
    "unlike factors": Case(
        lokr={
            **FULL,
            "preset": "full",
            "apply_preset": {
                "name_algo_map": {r".*\.w[12]": {"factor": 8}, r".*\.w3": {"factor": 4}}
            },
        },
        is_recomputed=True,
    ),
    "lora": Case(lokr=None, rank=4, balanced=True),
    "lora, recomputed": Case(lokr=None, rank=8, is_recomputed=True, size=(6, 10)),
    "attention of several blocks": Case(
        shape="tiny", only=ATTENTION, size=(6, 10), is_recomputed=True
    ),
    "pads": Case(only=ATTENTION, size=(6, 10), padded=True, balanced=True),
    "experts only": Case(only=(".experts.",), shape="wide"),
    "one expert linear": Case(only=("w3",), balanced=True),
    "modulation": Case(only=("adaLN",), is_recomputed=True),
    "captions and embedders": Case(only=("caption_projection", "embedder"), is_recomputed=True),
}


def adapter_of(model: HiDreamImageTransformer2DModel, case: Case) -> LokrAdapter | LoraAdapter:
    linears = hidream_linears(dict(model.config))
    named = lokr_of(
        {"algo": "lokr", "preset": "all", **(case.lokr or FULL)}, linears, None, Findings(), "local"
    )
    assert named is not None
    modules = tuple(
        module
        for module in named.modules
        if not case.only or any(part in module.path for part in case.only)
    )
    if case.rank is not None:
        return lora(*(module.path for module in modules), rank=case.rank, dropout=case.dropout)
    return named.model_copy(update={"modules": modules})


def networks(case: Case, *, dtype8: torch.dtype | None = None) -> tuple[Network, Network]:
    """The same adapted transformer with plain and with fused blocks, each with its own tensors."""
    model = model_of(case.shape)
    if dtype8 is not None:
        hold_in_8bit(model.requires_grad_(False), torch.device("cpu"), dtype8)
    adapter = adapter_of(model, case)
    found = []
    for _ in range(2):
        own = copy.deepcopy(model)
        attached = attach_adapter(own, adapter, seed=1)
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in attached.parameters().values():
                noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.data = 0.3 * noise
        found.append(network_of(own, attached, compute=CPU64, balanced=case.balanced))
    return found[0], with_fused_blocks(found[1], case)


def with_fused_blocks(network: Network, case: Case) -> Network:
    blocks = fused_blocks(
        network.transformer,
        recomputed=frozenset(range(100)) if case.is_recomputed else frozenset(),
        keeps_transposed=case.keeps_transposed,
    )
    return Network(
        transformer=network.transformer,
        blocks=blocks,
        adapter=network.adapter,
        trained=network.trained,
        compute=network.compute,
        has_balance=network.has_balance,
        flat=FlatParameters(network.trained),
    )


def answer(network: Network, case: Case, seed: int = 0) -> dict[str, torch.Tensor]:
    """The prediction, the balancing loss, and the gradient of each trained tensor.

    ``seed``: of the dropout.
    """
    question = Question.of(case.size)
    noisy = question.noise * 0.5 + question.latents
    text = TextEmbeddings(question.t5, question.llama, question.pooled)
    padding = "stock" if case.padded else "exact"
    prediction = network.velocity(
        noisy, 1000 * question.sigmas.double(), text, padding, torch.tensor(seed)
    )
    weights = torch.randn(
        prediction.velocity_BCHW.shape, generator=torch.Generator().manual_seed(9)
    )
    loss = (prediction.velocity_BCHW * weights).sum()
    found = {"velocity": prediction.velocity_BCHW.detach()}
    if prediction.balance is not None:
        loss = loss + 0.3 * prediction.balance
        found["balance"] = prediction.balance.detach()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.trained.items():
        grad = parameter.grad
        found[name] = torch.zeros_like(parameter) if grad is None else grad
    return found


@pytest.mark.parametrize("name", CASES)
def test_fused_blocks_compute_what_plain_blocks_compute(name: str) -> None:
    case = CASES[name]
    plain, fused = (answer(network, case) for network in networks(case))

    assert plain.keys() == fused.keys()
    assert ("balance" in plain) == case.balanced
    assert any(value.abs().max() > 0 for key, value in plain.items() if "." in key)
    for key, value in plain.items():
        torch.testing.assert_close(fused[key], value, rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", ["all linears", "all linears, recomputed"])
def test_both_tell_the_experts_that_their_gates_choose(name: str) -> None:
    plain, fused = networks(CASES[name])
    question = Question.of(CASES[name].size)
    text = TextEmbeddings(question.t5, question.llama, question.pooled)
    inputs = question.noise, 1000 * question.sigmas.double(), text
    chosen: list[list[torch.Tensor]] = [[], [], []]
    gates = [part for part in plain.transformer.modules() if isinstance(part, ExpertGate)]
    for gate in gates:
        gate.register_forward_hook(lambda *found: chosen[2].append(found[-1][0]))

    for network, into in zip((plain, fused), chosen, strict=False):
        with torch.no_grad():
            network.velocity(*inputs, note_experts=into.append)

    assert len(chosen[0]) == len(gates) > 1
    for ours, theirs, wanted in zip(*chosen, strict=True):
        assert torch.equal(ours, wanted)
        assert torch.equal(theirs.sort(dim=1).values.long(), wanted.sort(dim=1).values)


@pytest.mark.parametrize("name", ["all linears", "all linears, recomputed", "lora, recomputed"])
def test_a_backward_pass_frees_its_graph_without_the_garbage_collector(name: str) -> None:
    """A tensor in a cycle of references stays on a card until the collector happens to run."""
    _, fused = networks(CASES[name])
    answer(fused, CASES[name])
    gc.collect()
    gc.disable()
    try:
        answer(fused, CASES[name])
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


OUTSIDE = ("caption_projection", "_embedder.", "adaLN", "final_layer.linear")
"""Linears that diffusers' modules call themselves."""


@pytest.mark.parametrize("only", [("attn1", "ff_t", "shared_experts"), *((o,) for o in OUTSIDE)])
def test_lora_drops_elements_in_train_mode_only(only: tuple[str, ...]) -> None:
    case = Case(lokr=None, rank=4, only=only, dropout=0.5)
    question = Question.of(case.size)
    text = TextEmbeddings(question.t5, question.llama, question.pooled)
    _, network = networks(case)
    _, without = networks(replace(case, dropout=0.0))

    def velocity(network: Network, seed: int) -> torch.Tensor:
        sigmas = 1000 * question.sigmas.double()
        seeds = torch.tensor(seed)
        with torch.no_grad():
            return network.velocity(question.latents, sigmas, text, "exact", seeds).velocity_BCHW

    assert torch.equal(velocity(network, 1), velocity(network, 1))
    assert not torch.equal(velocity(network, 1), velocity(network, 2))
    for each in (network, without):
        each.transformer.eval()
    assert torch.equal(velocity(network, 1), velocity(without, 2))


def test_every_linear_has_a_number_of_its_own() -> None:
    _, network = networks(Case(lokr=None, rank=8, dropout=0.5))
    layers = {
        path.removesuffix(".lora_dropout.default"): part
        for path, part in network.transformer.named_modules()
        if isinstance(part, SeededDropout)
    }
    assert isinstance(network.blocks, FusedBlocks)
    found = {
        path: place.number
        for block in network.blocks.blocks
        for linears in block.attention.linears
        for path, place in zip(linears.paths, linears.places, strict=True)
    }

    assert sorted(layer.number for layer in layers.values()) == list(range(len(layers)))
    assert {name.rpartition(".")[0] for name in network.trained} == layers.keys()
    assert found
    assert all(layers[path].number == number for path, number in found.items())


def test_dropout_in_every_linear_leaves_the_generator_of_torch_alone() -> None:
    case = Case(lokr=None, rank=8, dropout=0.5, is_recomputed=True)
    _, network = networks(case)
    state = torch.get_rng_state()

    answer(network, case, seed=3)

    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_alone_decides_what_is_dropped() -> None:
    case = Case(lokr=None, rank=8, dropout=0.5)
    answers = []
    for seed, is_recomputed in ((3, False), (3, True), (4, False)):
        torch.manual_seed(len(answers))
        _, network = networks(replace(case, is_recomputed=is_recomputed))
        answers.append(answer(network, case, seed=seed))
    one, again, other = answers

    # A recomputed block adds up gradients in another order.
    torch.testing.assert_close(one, again, rtol=1e-9, atol=1e-9)
    assert torch.equal(one["velocity"], again["velocity"])
    for name in network.trained:
        assert not torch.equal(one[name], other[name])


def test_the_base_beside_fused_blocks_drops_nothing() -> None:
    case = Case(lokr=None, rank=8, dropout=0.5)
    question = Question.of(case.size)
    text = TextEmbeddings(question.t5, question.llama, question.pooled)
    inputs = question.latents, 1000 * question.sigmas.double(), text
    (plain, network), (_, without) = networks(case), networks(replace(case, dropout=0.0))

    base = network.base_velocity(*inputs)

    assert torch.equal(base, without.base_velocity(*inputs))
    torch.testing.assert_close(base, plain.base_velocity(*inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("adapter", "fits"),
    [
        (Case(lokr=None, rank=16), True),
        (Case(lokr=None, rank=12), False),
        (Case(lokr={"full_matrix": True, "factor": 16}), True),
        (Case(lokr={"linear_dim": 2, "factor": 16}), True),
        (Case(lokr=None, rank=12, only=ATTENTION), True),
    ],
)
def test_grouped_products_need_ranks_that_are_multiples_of_8(adapter: Case, fits: bool) -> None:
    _, network = networks(adapter)
    layer: Any = network.transformer.double_stream_blocks[0].block.ff_i

    assert can_group(layer) == fits


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize("only", [".experts.", "shared_experts", "attn1", *OUTSIDE])
def test_the_gradient_of_dropout_is_that_of_the_elements_it_kept(
    only: str, is_recomputed: bool
) -> None:
    case = Case(lokr=None, rank=8, only=(only,), dropout=0.5, is_recomputed=is_recomputed)
    _, network = networks(case)
    assert network.flat is not None
    values = network.flat.values
    draw = torch.Generator().manual_seed(3)
    direction = torch.randn(len(values), generator=draw, dtype=torch.float64)

    def loss(seed: int = 5) -> torch.Tensor:
        question = Question.of(case.size)
        text = TextEmbeddings(question.t5, question.llama, question.pooled)
        sigmas, seeds = 1000 * question.sigmas.double(), torch.tensor(seed)
        found = network.velocity(question.latents, sigmas, text, "exact", seeds).velocity_BCHW
        return found.square().mean()

    loss().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    with torch.no_grad():
        assert loss() != loss(seed=6)
        values.add_(1e-6 * direction)
        above = loss()
        values.sub_(2e-6 * direction)
        slope = (above - loss()) / 2e-6

    assert float(values.grad @ direction) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.each_pair
@pytest.mark.parametrize("keeps_transposed", [True, False])
@pytest.mark.parametrize("name", ["attention", "all linears", "lora", "experts only"])
@pytest.mark.parametrize(
    ("dtype8", "most", "least_cosine"),
    [(torch.float8_e4m3fn, 0.1, 0.97), (torch.int8, 0.03, 0.99)],
    ids=str,
)
def test_8bit_products_round_only_activations_and_gradients(
    name: str, keeps_transposed: bool, dtype8: torch.dtype, most: float, least_cosine: float
) -> None:
    """Beside plain blocks that convert the same 8-bit weights and multiply them in float64."""
    case = replace(CASES[name], keeps_transposed=keeps_transposed)
    plain, fused = networks(case, dtype8=dtype8)
    assert any(isinstance(part, Linear8) for part in fused.transformer.modules())
    expected, found = answer(plain, case), answer(fused, case)

    velocity = found["velocity"] - expected["velocity"]
    assert 0 < velocity.norm() < most * expected["velocity"].norm()
    together = [
        torch.cat([each[name].flatten() for name in plain.trained]) for each in (expected, found)
    ]
    assert torch.nn.functional.cosine_similarity(*together, dim=0) > least_cosine
