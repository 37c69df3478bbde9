"""Weights that the host holds give the same bits as weights on the device.

On the CPU the "device" is other memory of the CPU. Its slots hold numbers only while they may be
read, and NaN at all other times.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.networks import network_of
from tests.unit.hidream_oracle import Question, model_of
from tests.unit.test_fused_blocks import ATTENTION, CPU64, Case, adapter_of, answer
from tests.unit.test_memory_fused import fused_model
from trainer_core.adapters.attach import attach_adapter
from trainer_core.hidream.forward import Padding
from trainer_core.hidream.fused.build import fused_blocks
from trainer_core.hidream.host.ring import Ring
from trainer_core.hidream.host.slots import CpuSlots
from trainer_core.hidream.host.weights import StreamedLinear, hold_on_host
from trainer_core.hidream.network import Network
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.memory.fused_weights import block_weights_of, streamed_linears
from trainer_core.precision.linear8 import hold_in_8bit

CPU = torch.device("cpu")
CASES = {
    "attention": Case(shape="tiny", only=ATTENTION),
    "all linears": Case(shape="tiny", balanced=True),
    "lora": Case(shape="tiny", lokr=None, rank=4, size=(6, 10), padded=True),
    "modulation": Case(shape="tiny", only=("blocks.1.block.adaLN",)),
    "captions": Case(shape="tiny", only=("caption_projection.1", "caption_projection.3")),
    "embedders": Case(shape="tiny", only=("t_embedder",)),
    "last layer": Case(shape="tiny", only=("final_layer",)),
}

EVERY = frozenset(range(4))
STREAMED = {
    "attention": 9,
    "modulation": 7,
    "captions": 7,
    "embedders": 5,
    "last layer": 9,
}
"""Of 5 captions and 4 modulations, how many are neither adapted nor have a gradient."""
WITH_GRADIENT = {"modulation": 3, "last layer": 0}
"""Blocks with a gradient, where that are not all 4."""


class StrictSlots(CpuSlots):
    """Each copy arrives as late as it may: at ``wait``. Before it and after it the slot is NaN."""

    def __init__(self, sizes_bytes: Sequence[int], _: torch.device = CPU) -> None:
        super().__init__(sizes_bytes)
        self.sources: dict[int, torch.Tensor] = {}
        self.read: set[int] = set()
        self.on_their_way: set[int] = set()
        self.fills = 0

    def start(self) -> None:
        assert not self.read
        self.sources.clear()

    def fill(self, slot: int, source: torch.Tensor) -> None:
        assert slot not in self.read
        self.sources[slot] = source
        self.on_their_way.add(slot)
        self.fills += 1

    def finish(self) -> None:
        self.on_their_way.clear()

    def wait(self, slot: int) -> None:
        self.read.add(slot)
        self.on_their_way.discard(slot)
        super().fill(slot, self.sources[slot])

    def release(self, slot: int) -> None:
        self.read.remove(slot)
        self.memory[slot].fill_(0xFF)


Program = list[tuple[str, Any]]
PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.just("forward"), st.sets(st.integers(0, 6))),
        st.tuples(st.just("backward"), st.just(None)),
        st.tuples(st.just("use"), st.integers(0, 6)),
        st.tuples(st.just("use again"), st.integers(0, 6)),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(PROGRAMS, st.integers(1, 3), st.integers(1, 7))
@example([("forward", {0, 1}), ("forward", {1}), ("backward", None)], 1, 2)
@example([("forward", {0}), ("backward", None), ("use again", 1), ("backward", None)], 1, 2)
def test_an_item_is_in_its_slot_while_it_is_used(
    program: Program, slot_count: int, items: int
) -> None:
    memory = [torch.full((4 + item,), item, dtype=torch.uint8) for item in range(items)]
    slots = StrictSlots([10] * min(slot_count, items))
    ring = Ring(memory, slots)

    def check(item: int) -> None:
        held = slots.memory[item % len(slots.memory)]
        assert held[: 4 + item].tolist() == [item] * (4 + item)

    again: list[int] = []
    for what, argument in program:
        if what == "forward":
            again = sorted(each for each in argument if each < items)
            with ring.forward():
                for item in range(items):
                    with ring.use(item, again=item in again):
                        check(item)
        elif what == "backward":
            while again:
                item = again.pop()
                with ring.use_again(item):
                    check(item)
        elif argument < items:
            with ring.use(argument) if what == "use" else ring.use_again(argument):
                check(argument)
        if what in {"forward", "backward"}:
            # A graph may not end before all of its copies are waited for.
            assert not slots.on_their_way


def test_copies_run_ahead_and_each_item_is_copied_once() -> None:
    slots = StrictSlots([1, 1])
    ring = Ring([torch.tensor([item], dtype=torch.uint8) for item in range(5)], slots)
    fills = []

    with ring.forward():
        for item in range(5):
            with ring.use(item, again=True):
                fills.append(slots.fills)
    for item in reversed(range(5)):
        with ring.use_again(item):
            fills.append(slots.fills)

    # Forward: one item ahead of the one in use. Backward: the last two are there already.
    assert fills == [2, 3, 4, 5, 5, 5, 6, 7, 8, 8]


def network(
    case: Case,
    *,
    in_8bit: bool,
    recomputed: frozenset[int] = frozenset(),
    streams: bool = False,
    offloaded: frozenset[int] = frozenset(),
) -> Network:
    """An adapted transformer with fused blocks; equal arguments give equal weights."""
    model = model_of(case.shape)
    adapter = adapter_of(model, case)
    counted = fused_model(model, adapter, case)
    if in_8bit:
        hold_in_8bit(model.requires_grad_(False), CPU, torch.float8_e4m3fn)
    attached = attach_adapter(model, adapter, seed=1)
    draw = torch.Generator().manual_seed(2)
    for parameter in attached.parameters().values():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        parameter.data = 0.3 * noise
    plain = network_of(model, attached, compute=CPU64, balanced=case.balanced)
    host = hold_on_host(
        model,
        streamed=streamed_linears(counted) if streams else (),
        offloaded={
            number: [path for path in counted.linears if block_weights_of(counted, path) == number]
            for number in offloaded
        },
        device=CPU,
        open_slots=StrictSlots,
    )
    blocks = fused_blocks(
        model,
        recomputed=recomputed,
        keeps_transposed=False,
        host=host,
    )
    return replace(plain, blocks=blocks, host=host)


def asked(
    network: Network, case: Case, size: tuple[int, int], *, base_between: bool
) -> dict[str, torch.Tensor]:
    """Everything that a step computes, with the base's own prediction."""
    question = Question.of(size)
    text = TextEmbeddings(question.t5, question.llama, question.pooled)
    inputs = question.noise, 1000 * question.sigmas.double(), text
    padding: Padding = "stock" if case.padded else "exact"
    found = {"base": network.base_velocity(*inputs, padding)}
    prediction = network.velocity(*inputs, padding)
    found["velocity"] = prediction.velocity_BCHW.detach().clone()
    if base_between:
        found["base again"] = network.base_velocity(*inputs, padding)
    loss = prediction.velocity_BCHW.square().sum()
    if prediction.balance is not None:
        loss = loss + prediction.balance
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.trained.items():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
        parameter.grad.zero_()
    return found


SOME = frozenset({0, 2, 3})
HELD: dict[str, dict[str, Any]] = {
    "conditioning": {"streams": True},
    "some blocks": {"recomputed": EVERY, "offloaded": SOME},
    "everything": {"recomputed": EVERY, "offloaded": EVERY, "streams": True},
}


@pytest.mark.parametrize(
    ("name", "in_8bit", "held"),
    [
        *(("attention", True, held) for held in HELD),
        *(
            # Both at the same time are below, and each alone is above.
            pytest.param("attention", False, held, marks=pytest.mark.deep)
            for held in ("conditioning", "some blocks")
        ),
        ("all linears", True, "some blocks"),
        ("lora", False, "everything"),
        *((name, False, "everything") for name in STREAMED),
    ],
)
def test_a_step_computes_the_same_bits(name: str, in_8bit: bool, held: str) -> None:
    case, choices = CASES[name], HELD[held]
    networks = [
        network(case, in_8bit=in_8bit, recomputed=choices.get("recomputed", frozenset())),
        network(case, in_8bit=in_8bit, **choices),
    ]
    for size, base_between in (((8, 8), False), ((6, 10), True), ((8, 8), False)):
        resident, other = (asked(each, case, size, base_between=base_between) for each in networks)
        assert all(value.isfinite().all() for value in resident.values())
        assert other.keys() == resident.keys()
        for key, value in resident.items():
            assert torch.equal(other[key], value), key


@pytest.mark.parametrize("name", STREAMED)
def test_a_step_copies_each_weight_once_for_each_pass(name: str) -> None:
    """So the conditioning is counted in the order in which it is used."""
    case = CASES[name]
    model = network(case, in_8bit=False, recomputed=EVERY, offloaded=EVERY, streams=True)
    conditioning, blocks = (slots_of(each) for each in (model.host.conditioning, model.host.blocks))

    answer(model, case)

    streamed = [part for part in model.transformer.modules() if isinstance(part, StreamedLinear)]
    assert conditioning.fills == len(streamed) == STREAMED[name]
    # In the backward pass, the last two blocks of the forward pass are still there.
    assert blocks.fills == len(EVERY) + max(0, WITH_GRADIENT.get(name, len(EVERY)) - 2)


def slots_of(ring: Ring | None) -> StrictSlots:
    assert ring is not None
    assert isinstance(ring._slots, StrictSlots)
    return ring._slots


@pytest.mark.parametrize("in_8bit", [False, True])
def test_diffusers_own_forward_finds_the_weights(in_8bit: bool) -> None:
    case = CASES["attention"]
    models = [
        network(case, in_8bit=in_8bit),
        network(case, in_8bit=in_8bit, recomputed=EVERY, offloaded=EVERY, streams=True),
    ]
    question = Question.of((8, 8))
    inputs = {
        "hidden_states": question.latents,
        "timesteps": question.sigmas * 1000,
        "encoder_hidden_states_t5": question.t5,
        "encoder_hidden_states_llama3": question.llama.permute(1, 0, 2, 3),
        "pooled_embeds": question.pooled,
        "return_dict": False,
    }

    answer(models[1], case)  # what a step leaves behind is not used
    with torch.no_grad():
        resident, held = (each.transformer.eval()(**inputs)[0] for each in models)

    assert resident.isfinite().all()
    assert torch.equal(resident, held)


def test_modules_keep_their_names_shapes_and_modes() -> None:
    case = CASES["attention"]
    resident = network(case, in_8bit=True)
    held = network(case, in_8bit=True, recomputed=EVERY, offloaded=EVERY)

    tensors = [
        {name: (each.shape, each.dtype) for name, each in model.transformer.state_dict().items()}
        for model in (resident, held)
    ]
    assert tensors[0] == tensors[1]
    assert all(part.training for part in held.transformer.modules())
    assert not any(
        each.requires_grad
        for name, each in held.transformer.named_parameters()
        if name not in held.trained
    )


def test_an_adapter_is_on_the_device_of_its_model() -> None:
    """The weight that it adapts may be held by the host."""
    model = model_of("small").float()
    case = Case(only=("to_q",))
    path = "single_stream_blocks.0.block.attn1.to_q"
    model.t_embedder.to("meta")
    assert model.get_submodule(path).weight.device == CPU

    trained = attach_adapter(model, adapter_of(model, case), seed=1).parameters()

    assert {each.device.type for each in trained.values()} == {"meta"}
