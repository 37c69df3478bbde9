"""The load-balancing loss: its value, its gradient, and when it is not computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from torch import nn

from tests.support.networks import network_of
from tests.unit.config_examples import import_small
from tests.unit.hidream_oracle import Question, gate_balance, model_of, stock_prediction
from tests.unit.test_oracle_float64 import CPU32, CPU64, base_of, batch_of, lokr_on, merged
from trainer_core.config.plan import Objective
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import Losses, batch_losses
from trainer_core.hidream.balance import ExpertGate, layer_balance, replace_gates
from trainer_core.hidream.network import Network
from trainer_core.hidream.pads import Pads
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
    gradient_checkpointing_interval: int | None = None,
) -> Losses:
    network = network_of(
        model,
        compute=compute,
        balanced=weight > 0,
        gradient_checkpointing_interval=gradient_checkpointing_interval,
    )
    return batch_losses(network, batch_of(question, compute.weights), objective(weight))


def gates_of(model: nn.Module) -> list[ExpertGate]:
    return [part for part in model.modules() if isinstance(part, ExpertGate)]


def test_even_routing_has_the_loss_one_for_each_layer() -> None:
    gate = MoEGate(4, 4, 2).double()
    gate.weight.data = torch.eye(4, dtype=torch.float64)
    # Each token likes two experts equally well; all pairs of neighbours come equally often.
    tokens = torch.tensor([[3.0, 3, 0, 0], [0, 3, 3, 0], [0, 0, 3, 3], [3, 0, 0, 3]]).double()
    chosen, _, _ = gate(tokens[None])

    assert layer_balance(tokens[None], gate.weight, chosen, None).item() == pytest.approx(
        1.0, rel=1e-12
    )


def test_one_favoured_expert_has_up_to_twice_the_loss() -> None:
    gate = MoEGate(4, 4, 2).double()
    gate.weight.data = torch.eye(4, dtype=torch.float64)
    tokens = torch.tensor([[90.0, 1, 0, 0]]).double().expand(5, 4)
    chosen, _, _ = gate(tokens[None])

    assert layer_balance(tokens[None], gate.weight, chosen, None).item() == pytest.approx(
        2.0, rel=1e-9
    )


def test_pads_do_not_count_in_the_loss() -> None:
    gate = MoEGate(8, 4, 2).double()
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1)).double()
    chosen, _, _ = gate(tokens)
    pads = Pads.at_the_end_of(tokens[:, :6], 7)

    found = layer_balance(tokens, gate.weight, chosen, pads)

    kept = torch.cat([tokens[:, :5], tokens[:, 6:]], dim=1)
    right = gate_balance(kept.flatten(0, 1), gate.weight)
    assert found.item() == pytest.approx(right.item(), rel=1e-12)


def test_checkpointing_changes_neither_value_nor_gradient_and_counts_nothing_twice() -> None:
    found = []
    for interval in (None, 1):
        model = model_of("tiny")
        values = []
        for seed_size in (SIZE, (8, 8), SIZE):
            result = losses(model, Question.of(seed_size), gradient_checkpointing_interval=interval)
            assert result.balance is not None
            (result.flow_B.mean() + result.balance).backward()
            values.append(result.balance.item())
        assert values[0] == values[2]
        found.append((values, {n: p.grad for n, p in model.named_parameters()}))

    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_two_checkpointed_forwards_may_share_a_backward() -> None:
    plain, checkpointed = model_of("tiny"), model_of("tiny")

    for model, interval in ((plain, None), (checkpointed, 1)):
        first = losses(model, Question.of(SIZE), gradient_checkpointing_interval=interval)
        second = losses(model, Question.of((4, 4)), gradient_checkpointing_interval=interval)
        assert first.balance is not None
        assert second.balance is not None
        (first.balance + second.balance).backward()

    for name, parameter in checkpointed.named_parameters():
        gradient = plain.get_parameter(name).grad
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient)


def test_no_loss_is_computed_where_it_is_off_or_gradients_are_off() -> None:
    model = model_of("tiny")

    assert losses(model, Question.of(SIZE), weight=0.0).balance is None
    with torch.no_grad():
        assert losses(model, Question.of(SIZE)).balance is None
    network = network_of(model.eval(), compute=CPU64, balanced=True)
    question = Question.of(SIZE)
    text = batch_of(question, torch.float64).text
    assert network.velocity(question.latents, question.sigmas, text).balance is None


def test_the_base_forward_does_not_add_to_the_loss() -> None:
    model = model_of("tiny")
    lokr = lokr_on(model)
    network = network_of(model.double(), lokr, compute=CPU64, balanced=True)
    plain = Question.of(SIZE)
    prior = replace(plain, is_prior=torch.tensor([True, False]))

    without, with_prior = (
        batch_losses(network, batch_of(each, torch.float64), objective(0.1))
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
        found = layer_balance(tokens, gate.weight, chosen, None)

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


def test_the_gate_chooses_as_the_stock_gate_does_and_keeps_its_weight() -> None:
    stock = MoEGate(8, 4, 2)
    tokens = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))

    ours = ExpertGate(stock, has_loss=True)

    assert list(ours.named_parameters()) == [("weight", stock.weight)]
    for mode in (True, False):
        chosen, weights, _ = stock.train(mode)(tokens)
        found = ours.train(mode)(tokens)
        assert torch.equal(found[0], chosen)
        assert torch.equal(found[1], weights)


def test_replacing_the_gates_leaves_names_and_order_of_the_parameters() -> None:
    model = model_of("tiny")
    before = [(name, id(each)) for name, each in model.named_parameters()]

    assert replace_gates(model, has_loss=True) == LAYERS

    assert [(name, id(each)) for name, each in model.named_parameters()] == before
    assert len(gates_of(model)) == LAYERS
    assert replace_gates(nn.Sequential(nn.Linear(2, 2)), has_loss=True) == 0


def test_a_lokr_gets_the_terms_exact_gradient() -> None:
    model, stock, question = model_of("tiny"), model_of("tiny", SIZE), Question.of(SIZE)
    lokr = lokr_on(model)
    leaves = {n: p.detach().double().requires_grad_() for n, p in lokr.parameters().items()}
    base = base_of(stock)
    _, seen = stock_prediction(stock, {**base, **merged(base, leaves)}, question)
    term = torch.stack([gate_balance(h.flatten(0, 1), w) for h, w in seen]).sum()
    right = torch.autograd.grad(term, list(leaves.values()), allow_unused=True)
    network = network_of(model.float(), lokr, compute=CPU32, balanced=True)

    balance = batch_losses(network, batch_of(question, torch.float32), objective(0.1)).balance
    assert balance is not None
    balance.backward()

    assert any(gradient is not None and bool(gradient.any()) for gradient in right)
    for (name, parameter), gradient in zip(lokr.parameters().items(), right, strict=True):
        found = parameter.grad
        if gradient is None or found is None:
            assert gradient is None or not gradient.any()
            assert found is None or not found.any()
        else:
            assert (found.double() - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_training_with_the_loss_balances_a_biased_gate() -> None:
    """Full rank, 50 steps from gates that favour one expert: the spread is at most half."""
    spreads = {weight: spread_after(50, weight) for weight in (0.0, 0.1)}

    assert spread_after(0, 0.0) > 0.14
    assert spreads[0.0] > 0.1
    assert spreads[0.1] <= spreads[0.0] / 2


def spread_after(steps: int, weight: float) -> float:
    """Standard deviation of the four experts' shares, the mean over the layers."""
    model = model_of("small").float()
    network = network_of(model, compute=CPU32, balanced=weight > 0)
    batch = batch_of(Question.of((8, 8)), torch.float32)
    favour_one_expert(network, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        result = batch_losses(network, batch, objective(weight))
        loss = result.flow_B.mean()
        if result.balance is not None:
            loss = loss + weight * result.balance
        loss.backward()
        assert all(bool(gate.weight.grad.any()) for gate in gates_of(model))
        optimizer.step()
        optimizer.zero_grad()
    shares: list[torch.Tensor] = []
    with watching(model, lambda _, routed: shares.append(share_of(routed))), torch.no_grad():
        batch_losses(network, batch, objective(weight))
    return torch.stack([share.std() for share in shares]).mean().item()


def favour_one_expert(network: Network, batch: Batch) -> None:
    """Raise the first expert's score by about 3 at what the gates see at the start."""
    model = network.transformer
    means: list[torch.Tensor] = []
    with watching(model, lambda seen, _: means.append(seen.flatten(0, 1).mean(0))), torch.no_grad():
        batch_losses(network, batch, objective(0.0))
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
