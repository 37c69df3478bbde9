"""The load-balancing loss: its value, its gradient, and when it is not computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from torch import nn

from tests.unit.config_examples import import_small
from tests.unit.hidream_oracle import Question, gate_balance, model_of, stock_prediction
from tests.unit.test_oracle_float64 import CPU32, CPU64, base_of, batch_of, lokr_on, merged
from trainer_core.config.plan import Objective
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.hidream.balance import balance_terms, gate_term, stop_balancing
from trainer_core.precision.compute import Compute

SIZE = (6, 10)
LAYERS = 4


def objective(weight: float) -> Objective:
    plain = import_small().plan.identity.objective
    return plain.model_copy(update={"balance_weight": weight})


def losses(
    model: HiDreamImageTransformer2DModel,
    question: Question,
    weight: float = 0.1,
    compute: Compute = CPU64,
) -> Losses:
    batch = batch_of(question, compute.weights)
    return batch_losses(model, None, batch, objective(weight), compute)


def gates_of(model: nn.Module) -> list[MoEGate]:
    return [part for part in model.modules() if isinstance(part, MoEGate)]


def hooks_on(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_even_routing_costs_one_a_layer() -> None:
    gate = MoEGate(4, 4, 2).double()
    gate.weight.data = torch.eye(4, dtype=torch.float64)
    # Each token likes two experts equally well; all pairs of neighbours come equally often.
    tokens = torch.tensor([[3.0, 3, 0, 0], [0, 3, 3, 0], [0, 0, 3, 3], [3, 0, 0, 3]]).double()
    chosen, _, _ = gate(tokens[None])

    assert gate_term(gate, tokens[None], chosen, None).item() == pytest.approx(1.0, rel=1e-12)


def test_one_favoured_expert_costs_up_to_twice_as_much() -> None:
    gate = MoEGate(4, 4, 2).double()
    gate.weight.data = torch.eye(4, dtype=torch.float64)
    tokens = torch.tensor([[90.0, 1, 0, 0]]).double().expand(5, 4)
    chosen, _, _ = gate(tokens[None])

    assert gate_term(gate, tokens[None], chosen, None).item() == pytest.approx(2.0, rel=1e-9)


def test_pads_are_not_routed_tokens() -> None:
    gate = MoEGate(8, 4, 2).double()
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1)).double()
    chosen, _, _ = gate(tokens)
    real = torch.ones(2, 6, dtype=torch.bool)
    real[:, 5] = False

    found = gate_term(gate, tokens, chosen, real)

    kept = torch.cat([tokens[:, :5], tokens[:, 6:]], dim=1)
    right = gate_balance(kept.flatten(0, 1), gate.weight)
    assert found.item() == pytest.approx(right.item(), rel=1e-12)


def test_checkpointing_changes_neither_value_nor_gradient_and_counts_nothing_twice() -> None:
    found = []
    for checkpointed in (False, True):
        model = model_of("tiny")
        if checkpointed:
            model.enable_gradient_checkpointing()
        values = []
        for seed_size in (SIZE, (8, 8), SIZE):
            result = losses(model, Question.of(seed_size))
            assert result.balance is not None
            (result.flow_B.mean() + result.balance).backward()
            values.append(result.balance.item())
        assert values[0] == values[2]
        found.append((values, {n: p.grad for n, p in model.named_parameters()}))

    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_two_checkpointed_forwards_may_share_a_backward() -> None:
    plain, checkpointed = model_of("tiny"), model_of("tiny")
    checkpointed.enable_gradient_checkpointing()

    for model in (plain, checkpointed):
        first, second = losses(model, Question.of(SIZE)), losses(model, Question.of((4, 4)))
        assert first.balance is not None
        assert second.balance is not None
        (first.balance + second.balance).backward()

    for name, parameter in checkpointed.named_parameters():
        gradient = plain.get_parameter(name).grad
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient)


def test_nothing_is_computed_where_it_is_off_or_nothing_is_learnt() -> None:
    model = model_of("tiny")

    assert losses(model, Question.of(SIZE), weight=0.0).balance is None
    with torch.no_grad():
        assert losses(model, Question.of(SIZE)).balance is None

    assert hooks_on(model) == 0


def test_the_bases_own_pass_does_not_count() -> None:
    model = model_of("tiny")
    network = lokr_on(model)
    model.double()
    plain = Question.of(SIZE)
    prior = replace(plain, is_prior=torch.tensor([True, False]))

    without, with_prior = (
        batch_losses(model, network, batch_of(each, torch.float64), objective(0.1), CPU64)
        for each in (plain, prior)
    )

    assert without.balance is not None
    assert with_prior.balance is not None
    assert torch.equal(without.balance, with_prior.balance)
    assert not torch.equal(without.flow_B, with_prior.flow_B)


def test_autocast_does_not_round_the_probabilities() -> None:
    gate = MoEGate(64, 4, 2)
    tokens = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(1))
    right = gate_balance(tokens[0].double(), gate.weight.double())

    with torch.autocast("cpu", torch.bfloat16):
        chosen = (tokens[0] @ gate.weight.T).float().topk(2).indices
        found = gate_term(gate, tokens, chosen, None)

    assert found.dtype == torch.float32
    exact = gate(tokens)[0]
    assert torch.equal(chosen.sort().values, exact.sort().values)
    assert found.item() == pytest.approx(right.item(), rel=1e-5)


def test_a_run_in_bf16_adds_fp32_terms() -> None:
    model = model_of("tiny").bfloat16()
    compute = replace(CPU64, weights=torch.bfloat16)

    result = losses(model, Question.of(SIZE), compute=compute)

    assert result.balance is not None
    assert result.balance.dtype == torch.float32
    assert 0.9 * LAYERS < result.balance.item() < 2 * LAYERS


def test_the_hooks_come_off_again() -> None:
    model = model_of("tiny")
    losses(model, Question.of(SIZE))
    assert hooks_on(model) > 0

    stop_balancing(model)
    stop_balancing(model)

    assert hooks_on(model) == 0
    assert losses(model, Question.of(SIZE)).balance is not None


def test_a_model_without_experts_has_nothing_to_balance() -> None:
    with balance_terms(nn.Module()) as terms, pytest.raises(ValueError, match="no layer"):
        terms.total()


def test_a_lokr_gets_the_terms_exact_gradient() -> None:
    model, stock, question = model_of("tiny"), model_of("tiny", SIZE), Question.of(SIZE)
    network = lokr_on(model)
    leaves = {n: p.detach().double().requires_grad_() for n, p in network.parameters().items()}
    base = base_of(stock)
    _, seen = stock_prediction(stock, {**base, **merged(base, leaves)}, question)
    term = torch.stack([gate_balance(h.flatten(0, 1), w) for h, w in seen]).sum()
    right = torch.autograd.grad(term, list(leaves.values()), allow_unused=True)
    model.float()

    batch = batch_of(question, torch.float32)
    balance = batch_losses(model, network, batch, objective(0.1), CPU32).balance
    assert balance is not None
    balance.backward()

    assert any(gradient is not None and bool(gradient.any()) for gradient in right)
    for (name, parameter), gradient in zip(network.parameters().items(), right, strict=True):
        found = parameter.grad
        if gradient is None or found is None:
            assert gradient is None or not gradient.any()
            assert found is None or not found.any()
        else:
            assert (found.double() - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_it_evens_out_a_biased_start() -> None:
    """Full rank, 50 steps from gates that favour one expert: the spread is at most half."""
    spreads = {weight: spread_after(50, weight) for weight in (0.0, 0.1)}

    assert spread_after(0, 0.0) > 0.14
    assert spreads[0.0] > 0.1
    assert spreads[0.1] <= spreads[0.0] / 2


def spread_after(steps: int, weight: float) -> float:
    """Standard deviation of the four experts' shares, the mean over the layers."""
    model, question = model_of("small").float(), Question.of((4, 4))
    favour_one_expert(model, question)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        result = losses(model, question, weight, CPU32)
        loss = result.flow_B.mean()
        if result.balance is not None:
            loss = loss + weight * result.balance
        loss.backward()
        assert all(bool(gate.weight.grad.any()) for gate in gates_of(model))
        optimizer.step()
        optimizer.zero_grad()
    shares: list[torch.Tensor] = []
    with watching(model, lambda _, routed: shares.append(share_of(routed))), torch.no_grad():
        losses(model, question, weight, CPU32)
    return torch.stack([share.std() for share in shares]).mean().item()


def favour_one_expert(model: nn.Module, question: Question) -> None:
    """Raise the first expert's score by about 3 at what the gates see at the start."""
    means: list[torch.Tensor] = []
    with watching(model, lambda seen, _: means.append(seen.flatten(0, 1).mean(0))), torch.no_grad():
        losses(model, question, 0.0, CPU32)
        for gate, mean in zip(gates_of(model), means, strict=True):
            gate.weight[0] += 3 * mean / mean.square().sum()


def share_of(chosen_NK: torch.Tensor) -> torch.Tensor:
    return torch.bincount(chosen_NK.flatten(), minlength=4) / chosen_NK.numel()


@contextmanager
def watching(
    model: nn.Module, look: Callable[[torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Show each gate's tokens and choices, in the order of the layers."""
    handles = [
        gate.register_forward_hook(lambda _, args, output: look(args[0], output[0]))
        for gate in gates_of(model)
    ]
    yield
    for handle in handles:
        handle.remove()
