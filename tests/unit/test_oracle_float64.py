"""Loss and every gradient against an untouched diffusers model in float64."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from tests.support.networks import network_of
from tests.support.noisy_latents import noisy_and_target
from tests.unit.config_examples import import_small
from tests.unit.hidream_oracle import (
    Answer,
    Question,
    Wanted,
    answer,
    draw,
    model_of,
)
from trainer_core.adapters.lokr import LokrNetwork, attach_lokr
from trainer_core.config.plan import AdaptedModule, LokrAdapter, Objective
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.hidream.network import Network
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute

WEIGHT = 0.3
SQUARED_ERROR = Wanted()
SQUARE, ACROSS, DOWN = (8, 8), (6, 10), (12, 4)


@dataclass(frozen=True, kw_only=True)
class Case:
    shape: str
    size: tuple[int, int]
    wanted: Wanted = SQUARED_ERROR
    masked: bool = False
    prior: bool = False
    balanced: bool = False
    checkpointed: bool = False

    def __str__(self) -> str:
        words = [self.shape, "x".join(map(str, self.size)), self.wanted.loss]
        words += [
            name for name in ("masked", "prior", "balanced", "checkpointed") if vars(self)[name]
        ]
        return "-".join(words + (["padded"] if self.wanted.padded else []))

    @property
    def question(self) -> Question:
        question = Question.of(self.size)
        if self.masked:
            mask = (draw(2, 1, *self.size, seed=20).abs() / 3).clamp(0, 1)
            mask[1, :, :, : self.size[1] // 2] = 0
            question = replace(question, mask=mask.float().double())
        if self.prior:
            question = replace(question, is_prior=torch.tensor([False, True]))
        return question

    @property
    def objective(self) -> Objective:
        return import_small().plan.identity.objective.model_copy(
            update={
                "loss": self.wanted.loss,
                "huber_c": self.wanted.c,
                "huber_schedule": self.wanted.schedule,
                "balance_weight": WEIGHT if self.balanced else 0.0,
                "pad_compat": self.wanted.padded,
            }
        )


FULL = [
    Case(shape="tiny", size=SQUARE, balanced=True),
    Case(shape="tiny", size=ACROSS, wanted=Wanted(loss="huber"), masked=True),
    Case(shape="wide", size=DOWN, wanted=Wanted(loss="smooth_l1", schedule="exponential")),
    Case(shape="wide", size=SQUARE, wanted=Wanted(loss="huber", schedule="constant", c=0.3)),
    Case(shape="tiny", size=DOWN, wanted=Wanted(padded=True), balanced=True, masked=True),
    Case(shape="tiny", size=ACROSS, balanced=True, checkpointed=True),
]
LOKR = [
    Case(shape="tiny", size=ACROSS, prior=True, balanced=True),
    Case(shape="wide", size=SQUARE, prior=True, masked=True, wanted=Wanted(loss="smooth_l1")),
    Case(shape="tiny", size=ACROSS, wanted=Wanted(padded=True), prior=True, checkpointed=True),
]
CPU64 = Compute(device=torch.device("cpu"), weights=torch.float64, is_autocast=False)
CPU32 = replace(CPU64, weights=torch.float32)


def batch_of(question: Question, dtype: torch.dtype) -> Batch:
    texts = TextEmbeddings(question.t5, question.llama, question.pooled)
    noisy, target = noisy_and_target(question.latents, question.noise, question.sigmas)
    return Batch(
        noisy_BCHW=noisy.to(dtype),
        target_BCHW=target.to(dtype),
        sigmas_B=question.sigmas,
        text=texts.to(device=torch.device("cpu"), dtype=dtype),
        mask_B1HW=None if question.mask is None else question.mask.float(),
        is_prior_B=question.is_prior,
    )


def loss_of(losses: Losses | Answer, case: Case) -> torch.Tensor:
    if isinstance(losses, Answer):
        return losses.flow.mean() + (WEIGHT if case.balanced else 0) * losses.balance
    assert (losses.balance is not None) is case.balanced
    flow = losses.flow_B.mean()
    return flow if losses.balance is None else flow + WEIGHT * losses.balance


def expected(
    case: Case, leaves: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss, and the gradient of each leaf; ``weights`` are computed from the leaves."""
    stock = model_of(case.shape) if case.wanted.padded else model_of(case.shape, case.size)
    loss = loss_of(answer(stock, weights, base_of(stock), case.question, case.wanted), case)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return loss.item(), dict(zip(leaves, gradients, strict=True))


def base_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in model.named_parameters()}


def check(
    loss: float,
    found: Mapping[str, torch.Tensor],
    wanted: tuple[float, Mapping[str, torch.Tensor]],
    dtype: torch.dtype,
) -> None:
    right, gradients = wanted
    exact = dtype is torch.float64
    assert loss == pytest.approx(right, rel=1e-9 if exact else 1e-6)
    assert found.keys() == gradients.keys()
    errors = {name: _distance(found[name], gradients[name]) for name in gradients}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < (1e-6 if exact else 2e-4), f"{worst}: {errors[worst]}"
    if not exact:
        whole = [
            torch.cat([g[n].flatten().double() for n in gradients]) for g in (found, gradients)
        ]
        assert _distance(*whole) < 1e-5


def _distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """Relative to ``right``; absolute where ``right`` is 0."""
    size = right.norm().item()
    return (found.double() - right).norm().item() / size if size else found.norm().item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("case", FULL, ids=str)
def test_full_rank_loss_and_gradients_equal_float64_autograd(
    case: Case, dtype: torch.dtype
) -> None:
    model = model_of(case.shape)
    leaves = {name: each.requires_grad_() for name, each in base_of(model).items()}
    wanted = expected(case, leaves, leaves)
    network = trained_by(case, model.to(dtype), None, dtype)

    batch = batch_of(case.question, dtype)
    loss = loss_of(batch_losses(network, batch, case.objective), case)
    loss.backward()

    found = {name: each.grad for name, each in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    experts = [n for n in found if ".experts." in n or n.endswith("gate.weight")]
    assert len(experts) == (len(model.double_stream_blocks) + len(model.single_stream_blocks)) * 13
    assert any(bool(found[name].any()) for name in experts)
    check(loss.item(), found, wanted, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("case", LOKR, ids=str)
def test_lokr_loss_and_gradients_equal_float64_autograd(case: Case, dtype: torch.dtype) -> None:
    model = model_of(case.shape)
    base = base_of(model)
    lokr = lokr_on(model)
    model.double()
    leaves = {
        name: each.detach().clone().requires_grad_() for name, each in lokr.parameters().items()
    }
    wanted = expected(case, leaves, {**base, **merged(base, leaves)})
    network = trained_by(case, model.to(dtype), lokr, dtype)
    before = {path: linear.multiplier for path, linear in lokr.linears.items()}
    random_state = torch.get_rng_state()

    batch = batch_of(case.question, dtype)
    loss = loss_of(batch_losses(network, batch, case.objective), case)
    loss.backward()

    found: dict[str, Any] = {name: each.grad for name, each in lokr.parameters().items()}
    check(loss.item(), found, wanted, dtype)
    assert lokr.switch.is_on
    assert {path: linear.multiplier for path, linear in lokr.linears.items()} == before
    assert torch.equal(torch.get_rng_state(), random_state)


def trained_by(
    case: Case,
    model: HiDreamImageTransformer2DModel,
    adapter: LokrNetwork | None,
    dtype: torch.dtype,
) -> Network:
    return network_of(
        model,
        adapter,
        compute=CPU64 if dtype is torch.float64 else CPU32,
        balanced=case.balanced,
        gradient_checkpointing_interval=1 if case.checkpointed else None,
    )


def lokr_on(model: nn.Module) -> LokrNetwork:
    """A LoKr on attention, a shared and a routed expert, with random trained tensors."""
    plan = import_small({}).plan.identity.adapter
    assert isinstance(plan, LokrAdapter)
    paths = [
        path
        for path, part in model.named_modules()
        if isinstance(part, nn.Linear)
        and any(key in path for key in ("attn1", "shared_experts.w1", "experts.2.w2"))
    ]
    module = plan.modules[0].model_copy(update={"factor": 4, "use_scalar": True})
    modules = tuple(
        AdaptedModule.model_validate({**module.model_dump(), "path": path}) for path in paths
    )
    network = attach_lokr(
        model, plan.model_copy(update={"modules": modules, "use_scalar": True}), seed=1
    )
    with torch.no_grad():
        for number, each in enumerate(network.parameters().values()):
            each.copy_(draw(*each.shape, seed=100 + number) * 0.2)
    return network


def merged(
    base: Mapping[str, torch.Tensor], leaves: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The adapted weights, each with its delta added."""
    paths = {name.rpartition(".")[0] for name in leaves}
    return {
        f"{path}.weight": base[f"{path}.weight"]
        + leaves[f"{path}.scalar"] * torch.kron(leaves[f"{path}.w1"], leaves[f"{path}.w2"])
        for path in paths
    }


def test_prior_samples_need_an_adapter() -> None:
    case = Case(shape="tiny", size=SQUARE, prior=True)
    network = network_of(model_of("tiny"), compute=CPU64)

    with pytest.raises(ValueError, match="needs an adapter"):
        batch_losses(network, batch_of(case.question, torch.float64), case.objective)


def test_an_error_in_the_base_forward_leaves_the_adapter_on() -> None:
    model = model_of("tiny")
    lokr = lokr_on(model)
    network = network_of(model.double(), lokr, compute=CPU64)
    case = Case(shape="tiny", size=SQUARE, prior=True)
    batch = batch_of(case.question, torch.float32)  # another type than the weights

    with pytest.raises(RuntimeError):
        batch_losses(network, batch, case.objective)

    assert lokr.switch.is_on
    assert {linear.multiplier for linear in lokr.linears.values()} == {1.0}


def test_only_prior_samples_cost_a_second_forward() -> None:
    model = model_of("tiny")
    lokr = lokr_on(model)
    network = network_of(model.double(), lokr, compute=CPU64)
    calls: list[object] = []
    model.x_embedder.register_forward_hook(lambda *_: calls.append(1))

    for prior, expected_calls in ((False, 1), (True, 3)):
        case = Case(shape="tiny", size=SQUARE, prior=prior)
        batch_losses(network, batch_of(case.question, torch.float64), case.objective)
        assert len(calls) == expected_calls
