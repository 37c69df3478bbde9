"""Optimizer, schedule, clipping, EMA, and the number of micro-batches, steps and ranks."""

import math
from collections.abc import Mapping
from typing import Any, Final

import pytest
import torch

from tests.integration.plan_fields.deepspeed_step import deepspeed_step
from tests.integration.plan_fields.environment import Environment, Steps
from tests.integration.plan_fields.files import RATE, Files
from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Check, Group
from trainer_core.config.plan import Plan

GROUP: Final = Group()
_OPTIMIZER: Final = "identity.optimizer"


def _largest(tensors: Mapping[str, torch.Tensor]) -> float:
    return max(each.abs().max().item() for each in tensors.values())


def _gradients(steps: Steps, beta: float) -> dict[str, torch.Tensor]:
    """The gradients of step 1, from AdamW's first moments."""
    moments = steps.tensors(1, "optim/", "/exp_avg")
    return {name: moment.double() / (1 - beta) for name, moment in moments.items()}


@GROUP.observes(f"{_OPTIMIZER}.name", reset="optimi-lion")
def the_state_is_that_of_adamw(plan: Plan, environment: Environment) -> None:
    keys = environment.steps(plan, 1).after[0]
    fields = {key.rpartition("/")[2] for key in keys if key.startswith("optim/")}
    expect(fields, {"exp_avg", "exp_avg_sq", "step"})


@GROUP.observes(f"{_OPTIMIZER}.learning_rate", reset=2 * RATE)
def the_first_step_is_as_large_as_the_rate(plan: Plan, environment: Environment) -> None:
    run = environment.trained_run(plan)
    expect(run.reported("step", "learning_rate"), [RATE] * 3)
    after = run.parameters(1)
    moved = _largest({name: after[name] - each for name, each in run.start.items()})
    # AdamW's first step is the rate times the gradient's sign, where eps is small beside it.
    expect(moved, pytest.approx(RATE, rel=1e-2))


def _moment_is(field: str, beta: float, power: int) -> Check:
    """After one step a moment is (1 - beta) · gradient ** power."""

    def the_moment_is_weighted_by_beta(plan: Plan, environment: Environment) -> None:
        steps = environment.steps(plan, 1)
        largest = _largest(steps.tensors(1, "optim/", f"/{field}"))
        expect(largest, pytest.approx((1 - beta) * steps.grad_max[0] ** power, rel=1e-4))

    return the_moment_is_weighted_by_beta


_BETAS: Final = Files(config={"optimizer_beta1": 0.8, "optimizer_beta2": 0.99})
GROUP.add(f"{_OPTIMIZER}.betas[0]", _moment_is("exp_avg", 0.8, 1), files=_BETAS, reset=0.9)
GROUP.add(f"{_OPTIMIZER}.betas[1]", _moment_is("exp_avg_sq", 0.99, 2), files=_BETAS, reset=0.9)


@GROUP.observes(f"{_OPTIMIZER}.eps", files=Files(config={"adam_epsilon": 1e-3}), reset=1e-2)
def eps_is_added_to_the_gradients_size(plan: Plan, environment: Environment) -> None:
    steps = environment.steps(plan, 1)
    after = steps.tensors(1, "param/")
    for name, gradient in _gradients(steps, beta=0.9).items():
        expected = steps.start[name] - RATE * gradient / (gradient.abs() + 1e-3)
        expect_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)


@GROUP.observes(
    f"{_OPTIMIZER}.weight_decay", files=Files(config={"adam_weight_decay": 0.1}), reset=0.2
)
def weights_without_gradient_shrink(plan: Plan, environment: Environment) -> None:
    steps = environment.steps(plan, 1)
    after = steps.tensors(1, "param/")
    # w2 starts at 0, so w1 has no gradient yet: only the decay changes it.
    for name in (name for name in after if name.endswith(".w1")):
        expected = steps.start[name] * (1 - RATE * 0.1)
        expect_close(after[name], expected, rtol=1e-6, atol=0)


_POLYNOMIAL: Final = {"lr_scheduler": "polynomial", "lr_end": RATE / 5, "lr_power": 2.0}
_POWER: Final = tuple(0.2 + 0.8 * (left / 3) ** 2 for left in (3, 2, 1))
_WARM_UP: Final = {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2}
_COSINE: Final = {"lr_scheduler": "cosine", "lr_end": 0, "lr_period_steps": 2}
_SCHEDULES: Final[tuple[tuple[str, dict[str, Any], Any, tuple[float, ...]], ...]] = (
    # field, options, reset, rates of the three steps as shares of the peak
    ("name", {"lr_scheduler": "linear"}, "constant_with_warmup", (1, 2 / 3, 1 / 3)),
    ("warmup_steps", _WARM_UP, 3, (1 / 2, 1, 1)),
    ("end", _POLYNOMIAL, RATE / 10, _POWER),
    ("power", _POLYNOMIAL, 1.0, _POWER),
    ("period_steps", _COSINE, 3, (1, (1 + math.cos(math.pi / 2)) / 2, 1)),
)


def _rates_are(shares: tuple[float, ...]) -> Check:
    def the_rates_follow_the_schedule(plan: Plan, environment: Environment) -> None:
        rates = environment.trained_run(plan).reported("step", "learning_rate")
        expect(rates, pytest.approx([RATE * share for share in shares], rel=1e-9))

    return the_rates_follow_the_schedule


for _name, _config, _reset, _shares in _SCHEDULES:
    GROUP.add(
        f"identity.schedule.{_name}", _rates_are(_shares), files=Files(config=_config), reset=_reset
    )


_LIMIT: Final = 1e-5
_CLIPPED: Final = Files(config={"max_grad_norm": _LIMIT, "grad_clip_method": "value"})


@GROUP.observes("identity.clip.method", files=_CLIPPED, reset="norm")
@GROUP.observes("identity.clip.limit", files=_CLIPPED, reset=2 * _LIMIT)
def gradients_are_clipped_at_the_limit(plan: Plan, environment: Environment) -> None:
    steps = environment.steps(plan, 1)
    assert steps.grad_max[0] > 3 * _LIMIT
    expect(_largest(_gradients(steps, beta=0.9)), pytest.approx(_LIMIT, rel=1e-4))


_EMA: Final[tuple[tuple[str, dict[str, Any], Any, tuple[float, ...]], ...]] = (
    # field, options, reset, decay at each of the three steps
    ("decay", {}, 0.9, (0, 0.2, 0.2)),
    ("warmup_steps", {"ema_warmup_steps": 2}, 1, (0, 0, 0.2)),
    ("update_interval", {"ema_update_interval": 2}, 1, (1, 0, 1)),
)


def _decays_are(decays: tuple[float, ...]) -> Check:
    """After each step the mean of every parameter is decay · mean + (1 - decay) · value."""

    def the_means_follow_the_decay(plan: Plan, environment: Environment) -> None:
        steps = environment.steps(plan, len(decays))
        means = {name: each.double() for name, each in steps.start.items()}
        for number, decay in enumerate(decays, start=1):
            values, found = steps.tensors(number, "param/"), steps.tensors(number, "ema/")
            for name, mean in means.items():
                means[name] = decay * mean + (1 - decay) * values[name]
                expect_close(found[name].double(), means[name], rtol=1e-5, atol=1e-8)

    return the_means_follow_the_decay


for _name, _config, _reset, _decays in _EMA:
    GROUP.add(
        f"identity.ema.{_name}", _decays_are(_decays), files=Files(config=_config), reset=_reset
    )


@GROUP.observes("identity.micro_batch_size", files=Files(config={"train_batch_size": 2}), reset=3)
def a_batch_has_two_samples(plan: Plan, environment: Environment) -> None:
    batches = environment.batches(plan, environment.load(plan), 3)
    expect([len(batch.noisy_BCHW) for batch in batches], [2, 2, 2])


@GROUP.observes(
    "identity.accumulation_steps",
    files=Files(config={"gradient_accumulation_steps": 2, "max_train_steps": 1}),
    reset=3,
)
def a_step_takes_two_micro_batches(plan: Plan, environment: Environment) -> None:
    expect(environment.trained_run(plan).micro_batches, 2)


@GROUP.observes("identity.max_train_steps", reset=2)
def three_steps_are_taken_and_reported(plan: Plan, environment: Environment) -> None:
    run = environment.trained_run(plan)
    expect(run.reported("step", "step"), [1, 2, 3])
    expect(run.reported("plan", "steps"), [3])


_BF16: Final = {
    "model_type": "full",
    "lora_type": None,
    "mixed_precision": "bf16",
    "optimizer": "adamw_bf16",
    "use_ema": False,
}


@GROUP.observes("identity.precision.trained", files=Files(config=_BF16), reset="fp32")
def weights_and_moments_are_held_in_bf16(plan: Plan, environment: Environment) -> None:
    after = environment.steps(plan, 1).after[0]
    found = {value.dtype for name, value in after.items() if not name.endswith("/step")}
    expect(found, {torch.bfloat16})


@GROUP.observes("operation.release_gradients", files=Files(config=_BF16), reset=False)
def never_are_all_gradients_in_memory(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    parameters, alive = list(loaded.network.trained.values()), []
    for parameter in parameters:
        parameter.register_hook(
            lambda _: alive.append(sum(each.grad is not None for each in parameters))
        )
    (batch,) = environment.batches(plan, loaded, 1)
    loaded.backend.launch([batch], count=1, step=1, learning_rate=RATE).read()
    expect(max(alive) < len(parameters) // 10, True)


_EPOCH: Final = Files(
    config={"max_train_steps": None, "num_train_epochs": 1, "train_batch_size": 2}
)


@GROUP.observes("identity.num_train_epochs", files=_EPOCH, reset=2)
def an_epoch_of_three_square_images_and_a_tall_one_is_three_batches(
    plan: Plan, environment: Environment
) -> None:
    run = environment.trained_run(plan)
    expect(run.reported("plan", "steps"), [3])
    expect(run.reported("step", "epoch"), [0, 0, 0])


_DEEPSPEED: Final = Files(
    config={
        "model_type": "full",
        "lora_type": None,
        "use_ema": False,
        "world_size": 2,
        "zero_stage": 3,
        "max_train_steps": 1,
    }
)


@GROUP.observes("identity.world_size", files=_DEEPSPEED, reset=3)
def one_rank_takes_the_micro_batches_of_two(plan: Plan, environment: Environment) -> None:
    expect(deepspeed_step(plan, environment).micro_batches, 2)


@GROUP.observes("operation.zero_stage", files=_DEEPSPEED, reset=2)
def stage_3_shards_the_weights(plan: Plan, environment: Environment) -> None:
    step = deepspeed_step(plan, environment)
    assert step.parameters > 0
    expect(step.sharded, step.parameters)


@GROUP.observes(
    "operation.zero_offload",
    files=Files(config={**_DEEPSPEED.config, "zero_offload": "cpu"}),
    reset="none",
)
def the_gradients_are_moved_to_the_fp32_weights(plan: Plan, environment: Environment) -> None:
    expect(deepspeed_step(plan, environment).is_offloaded, True)
