"""The counted memory of the fused blocks, beside the tensors that they hold and save."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel

from tests.support.networks import network_of
from tests.unit.config_examples import import_small
from tests.unit.hidream_oracle import LLAMA_LAYERS, model_of
from tests.unit.test_fused_blocks import Case, adapter_of, with_fused_blocks
from trainer_core.adapters.attach import attach_adapter
from trainer_core.adapters.factors import Trained
from trainer_core.config.plan import MatmulKind
from trainer_core.hidream.blocks import Blocks, Double, Single
from trainer_core.hidream.forward import predict
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.memory.fused_activations import block_bytes
from trainer_core.memory.fused_model import LIVE_TEXT_TOKENS, TAIL_TOKENS, FusedModel, Tokens
from trainer_core.memory.fused_weights import base_bytes
from trainer_core.precision.compute import Compute
from trainer_core.precision.linear8 import dtype8_of, hold_in_8bit

CPU32 = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)
CELLS = (24, 24)
IMAGE_TOKENS = 144
ATTENTION = ("attn1",)
CASES = {
    "attention": Case(shape="tiny", only=ATTENTION),
    "shared experts": Case(shape="tiny", only=("shared_experts",)),
    "experts": Case(shape="tiny", only=(".experts.",)),
    "text feed-forward": Case(shape="tiny", only=("ff_t",)),
    "lora in blocks": Case(shape="tiny", lokr=None, rank=8, only=("attn1", "ff_")),
    "balanced": Case(shape="tiny", only=ATTENTION, balanced=True),
    "recomputed": Case(shape="tiny", only=ATTENTION, is_recomputed=True),
}


@dataclass
class Watched:
    """Blocks that note the storages which autograd saves in each of them."""

    blocks: Blocks
    known: dict[int, Any]
    """Storages that are not activations of a block, by address; and those of earlier blocks."""
    saved_bytes: dict[int, int] = field(default_factory=dict)

    def double(self, number: int, *inputs: Any) -> Double:
        return self._watch(number, lambda: self.blocks.double(number, *inputs))

    def single(self, number: int, *inputs: Any) -> Single:
        return self._watch(number, lambda: self.blocks.single(number, *inputs))

    def _watch(self, number: int, run: Callable[[], Any]) -> Any:
        self.saved_bytes[number] = 0

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.known[storage.data_ptr()] = storage  # alive, so that no address comes again
                self.saved_bytes[number] += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            return run()


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_autograd_saves_what_is_counted(name: str, samples: int) -> None:
    case = CASES[name]
    transformer = model_of(case.shape, CELLS).float()
    adapter = adapter_of(transformer, case)
    attached = attach_adapter(transformer, adapter, seed=1)
    network = network_of(transformer, attached, compute=CPU32, balanced=case.balanced)
    fused = with_fused_blocks(network, case)
    assert fused.flat is not None
    trained = Trained(fused.flat.stacks())
    factors = attached.factors(trained, torch.float32, torch.tensor(1))
    watched = Watched(
        fused.blocks,
        storages(
            *transformer.parameters(),
            *transformer.buffers(),
            *(each for pair in factors.values.values() for each in pair),
            *(each for pair in factors.links.values() for each in pair),
        ),
    )
    text = TextEmbeddings(
        torch.randn(samples, 128, 48),
        torch.randn(samples, LLAMA_LAYERS, 128, 64),
        torch.randn(samples, 40),
    )
    predict(
        transformer,
        watched,
        torch.randn(samples, 16, *CELLS),
        1000 * torch.rand(samples),
        text,
        padding="exact",
        adapter=factors,
        has_balance=case.balanced,
    )

    model = fused_model(transformer, adapter, case)
    tokens = Tokens(samples, IMAGE_TOKENS)
    # Not the first block, whose inputs have no gradient; nor a double-stream block where no
    # gradient comes to its text; nor the last block, whose input is a part of a tensor.
    for number in (1, 2) if "attn1" in case.only else (2,):
        block = block_bytes(model, number, tokens)
        counted = block.input if case.is_recomputed else block.kept
        if not case.balanced:
            # The norm's plain twin joins the residual stream with the tail, and keeps that; a
            # recomputed block keeps the tail, which is counted outside the blocks.
            counted += samples * TAIL_TOKENS * model.width * 4
        if case.is_recomputed:
            # The result of its attention is kept outside autograd: a tensor, and a number a head.
            counted -= samples * (IMAGE_TOKENS + LIVE_TEXT_TOKENS) * 4 * (model.width + model.heads)
        assert watched.saved_bytes[number] == pytest.approx(counted, rel=0.03), number


@pytest.mark.parametrize("matmul", ["fp8", "int8", "no_change"])
def test_the_base_is_counted_to_the_byte(matmul: MatmulKind) -> None:
    case = CASES["attention"]
    transformer = model_of(case.shape).float()
    counted = fused_model(transformer, adapter_of(transformer, case), case, matmul)
    dtype8 = dtype8_of(matmul)
    if dtype8 is not None:
        hold_in_8bit(transformer.requires_grad_(False), torch.device("cpu"), dtype8)

    tensors = [*transformer.parameters(), *transformer.buffers()]
    held = sum(each.numel() * each.element_size() for each in tensors)
    assert sum(base_bytes(counted)) == held


def storages(*tensors: torch.Tensor) -> dict[int, Any]:
    return {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}


def fused_model(
    transformer: HiDreamImageTransformer2DModel,
    adapter: Any,
    case: Case,
    matmul: MatmulKind = "no_change",
) -> FusedModel:
    plan = import_small({"mixed_precision": "no"}).plan
    objective = plan.identity.objective.model_copy(
        update={"balance_weight": 1.0 if case.balanced else 0.0}
    )
    identity = plan.identity.model_copy(update={"adapter": adapter, "objective": objective})
    return FusedModel.of(
        plan.model_copy(update={"identity": identity}), dict(transformer.config), matmul
    )
