"""How much is trained, by which rule, how fast."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import pytest
import torch

from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Group
from tests.integration.plan_fields.world import RATE, Files, Steps, World
from tests.integration.plan_fields.zero import zero_facts
from trainer_core.config.plan import Plan

GROUP: Final = Group()
_OPTIMIZER: Final = "identity.optimizer"
_SCHEDULE: Final = "identity.schedule"


@GROUP.observes(f"{_OPTIMIZER}.name", reset="optimi-lion")
def state_of_adamw(plan: Plan, world: World) -> None:
    keys = world.steps(plan, 1).after[0]
    fields = {key.rpartition("/")[2] for key in keys if key.startswith("optim/")}
    expect(fields, {"exp_avg", "exp_avg_sq", "step"})


@GROUP.observes(f"{_OPTIMIZER}.learning_rate", reset=2 * RATE)
def moves_by_the_rate(plan: Plan, world: World) -> None:
    trace = world.trace(plan)
    expect(trace.reported("step", "learning_rate"), [RATE] * 3)
    after = trace.parameters(1)
    moved = max((after[name] - each).abs().max().item() for name, each in trace.start.items())
    # AdamW's first step is the rate times the gradient's sign, where eps is small beside it.
    expect(moved, pytest.approx(RATE, rel=1e-2))


_BETAS: Final = Files(config={"optimizer_beta1": 0.8, "optimizer_beta2": 0.99})


def _largest(tensors: Mapping[str, torch.Tensor]) -> float:
    return max(each.abs().max().item() for each in tensors.values())


@GROUP.observes(f"{_OPTIMIZER}.betas[0]", files=_BETAS, reset=0.9)
def first_moment(plan: Plan, world: World) -> None:
    steps = world.steps(plan, 1)
    largest = _largest(steps.part(1, "optim/", "/exp_avg"))
    expect(largest, pytest.approx((1 - 0.8) * steps.grad_max[0], rel=1e-4))


@GROUP.observes(f"{_OPTIMIZER}.betas[1]", files=_BETAS, reset=0.9)
def second_moment(plan: Plan, world: World) -> None:
    steps = world.steps(plan, 1)
    largest = _largest(steps.part(1, "optim/", "/exp_avg_sq"))
    expect(largest, pytest.approx((1 - 0.99) * steps.grad_max[0] ** 2, rel=1e-4))


def _gradients(steps: Steps, beta: float) -> dict[str, torch.Tensor]:
    """Of step 1, as AdamW's first moment holds them."""
    moments = steps.part(1, "optim/", "/exp_avg")
    return {name: moment.double() / (1 - beta) for name, moment in moments.items()}


@GROUP.observes(
    f"{_OPTIMIZER}.eps",
    files=Files(config={"adam_epsilon": 1e-3}),
    reset=1e-2,
)
def damped_by_eps(plan: Plan, world: World) -> None:
    steps = world.steps(plan, 1)
    after = steps.part(1, "param/")
    for name, gradient in _gradients(steps, beta=0.9).items():
        expected = steps.start[name] - RATE * gradient / (gradient.abs() + 1e-3)
        expect_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


@GROUP.observes(
    f"{_OPTIMIZER}.weight_decay",
    files=Files(config={"adam_weight_decay": 0.1}),
    reset=0.2,
)
def shrunk(plan: Plan, world: World) -> None:
    steps = world.steps(plan, 1)
    after = steps.part(1, "param/")
    # w2 starts at 0, so w1 has no gradient yet: only the decay moves it.
    for name in (name for name in after if name.endswith(".w1")):
        expected = steps.start[name] * (1 - RATE * 0.1)
        expect_close(after[name], expected, rtol=1e-6, atol=0)


def _rates_are(plan: Plan, world: World, *shares: float) -> None:
    """Rates of the first steps, as shares of the peak."""
    rates = world.trace(plan).reported("step", "learning_rate")
    expect(rates, pytest.approx([RATE * share for share in shares], rel=1e-9))


@GROUP.observes(
    f"{_SCHEDULE}.name",
    files=Files(config={"lr_scheduler": "linear"}),
    reset="constant_with_warmup",
)
def falls_linearly(plan: Plan, world: World) -> None:
    _rates_are(plan, world, 1, 2 / 3, 1 / 3)


@GROUP.observes(
    f"{_SCHEDULE}.warmup_steps",
    files=Files(config={"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2}),
    reset=3,
)
def warms_up(plan: Plan, world: World) -> None:
    _rates_are(plan, world, 1 / 2, 1, 1)


_POLYNOMIAL: Final = Files(
    config={"lr_scheduler": "polynomial", "lr_end": RATE / 5, "lr_power": 2.0}
)


@GROUP.observes(f"{_SCHEDULE}.end", files=_POLYNOMIAL, reset=RATE / 10)
@GROUP.observes(f"{_SCHEDULE}.power", files=_POLYNOMIAL, reset=1.0)
def falls_as_a_power(plan: Plan, world: World) -> None:
    _rates_are(plan, world, *(0.2 + 0.8 * (left / 3) ** 2 for left in (3, 2, 1)))


@GROUP.observes(
    f"{_SCHEDULE}.period_steps",
    files=Files(config={"lr_scheduler": "cosine", "lr_end": 0, "lr_period_steps": 2}),
    reset=3,
)
def falls_and_comes_back(plan: Plan, world: World) -> None:
    _rates_are(plan, world, 1, (1 + math.cos(math.pi / 2)) / 2, 1)


_LIMIT: Final = 1e-5
_CUT: Final = Files(config={"max_grad_norm": _LIMIT, "grad_clip_method": "value"})


@GROUP.observes(
    "identity.clip.method",
    files=_CUT,
    reset="norm",
)
@GROUP.observes(
    "identity.clip.limit",
    files=_CUT,
    reset=2 * _LIMIT,
)
def cut_at_the_limit(plan: Plan, world: World) -> None:
    steps = world.steps(plan, 1)
    assert steps.grad_max[0] > 3 * _LIMIT
    expect(_largest(_gradients(steps, beta=0.9)), pytest.approx(_LIMIT, rel=1e-4))


def _means_are(plan: Plan, world: World, decays: Sequence[float]) -> None:
    """Of every parameter after each step: mean = decay · mean + (1 - decay) · value."""
    steps = world.steps(plan, len(decays))
    means = {name: each.double() for name, each in steps.start.items()}
    for number, decay in enumerate(decays, start=1):
        values, kept = steps.part(number, "param/"), steps.part(number, "ema/")
        for name, mean in means.items():
            means[name] = decay * mean + (1 - decay) * values[name]
            expect_close(kept[name].double(), means[name], rtol=1e-5, atol=1e-8)


@GROUP.observes("identity.ema.decay", reset=0.9)
def decays(plan: Plan, world: World) -> None:
    _means_are(plan, world, [0, 0.2, 0.2])


@GROUP.observes(
    "identity.ema.warmup_steps",
    files=Files(config={"ema_warmup_steps": 2}),
    reset=1,
)
def copies_at_first(plan: Plan, world: World) -> None:
    _means_are(plan, world, [0, 0, 0.2])


@GROUP.observes(
    "identity.ema.update_interval",
    files=Files(config={"ema_update_interval": 2}),
    reset=1,
)
def updates_now_and_then(plan: Plan, world: World) -> None:
    _means_are(plan, world, [1, 0, 1])


@GROUP.observes(
    "identity.micro_batch_size",
    files=Files(config={"train_batch_size": 2}),
    reset=3,
)
def side_by_side(plan: Plan, world: World) -> None:
    batches = world.batches(plan, world.parts(plan), 3)
    expect([len(batch.noisy_BCHW) for batch in batches], [2, 2, 2])


@GROUP.observes(
    "identity.accumulation_steps",
    files=Files(config={"gradient_accumulation_steps": 2, "max_train_steps": 1}),
    reset=3,
)
def one_after_another(plan: Plan, world: World) -> None:
    expect(world.trace(plan).micro_batches, 2)


@GROUP.observes("identity.max_train_steps", reset=2)
def so_many_steps(plan: Plan, world: World) -> None:
    trace = world.trace(plan)
    expect(trace.reported("step", "step"), [1, 2, 3])
    expect(trace.reported("plan", "steps"), [3])


_SHARDED: Final = Files(
    config={
        "model_type": "full",
        "lora_type": None,
        "use_ema": False,
        "world_size": 2,
        "zero_stage": 3,
        "max_train_steps": 1,
    }
)


@GROUP.observes(
    "identity.world_size",
    files=_SHARDED,
    reset=3,
)
def shared_by_ranks(plan: Plan, world: World) -> None:
    expect(zero_facts(plan, world).micro_batches, 2)


@GROUP.observes(
    "operation.zero_stage",
    files=_SHARDED,
    reset=2,
)
def split_over_ranks(plan: Plan, world: World) -> None:
    """Stage 3, and no other, splits the weights themselves."""
    facts = zero_facts(plan, world)
    assert facts.parameters > 0
    expect(facts.split, facts.parameters)
