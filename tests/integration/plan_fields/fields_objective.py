"""What is drawn, what is compared with what, and how a model's numbers are held."""

import math
import random
from typing import Any, Final

import pytest
import torch
from optimum.quanto import QLinear

from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Group
from tests.integration.plan_fields.world import MASKS, RATE, Files, World, draw_of, stock_linears
from trainer_core.config.plan import Plan
from trainer_core.engine.losses import batch_losses
from trainer_core.hidream.warm import WarmEncoders

GROUP: Final = Group()
_DRAWS: Final = 8
_SIGMA: Final = "identity.objective.sigma"


def _sigmas(plan: Plan, world: World) -> list[float]:
    batches = world.batches(plan, world.parts(plan), _DRAWS)
    return [float(batch.sigmas_B[0]) for batch in batches]


def _sigmoid(i: int, scale: float = 1.0) -> float:
    draw = draw_of(42, "train sigma", i, 0)
    normal = torch.randn(1, generator=draw, dtype=torch.float64).item()
    return 1 / (1 + math.exp(-scale * normal))


def _shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _near(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-5)


@GROUP.observes(
    f"{_SIGMA}.name",
    files=Files(config={"flow_use_uniform_schedule": True}),
    reset="sigmoid",
)
def uniform(plan: Plan, world: World) -> None:
    draws = [draw_of(42, "train sigma", i, 0) for i in range(_DRAWS)]
    expected = [torch.rand(1, generator=draw, dtype=torch.float64).item() for draw in draws]
    expect(_sigmas(plan, world), _near(expected))


@GROUP.observes(
    f"{_SIGMA}.sigmoid_scale",
    files=Files(config={"flow_sigmoid_scale": 2.0}),
    reset=1.5,
)
def sigmoid(plan: Plan, world: World) -> None:
    expect(_sigmas(plan, world), _near([_sigmoid(i, scale=2.0) for i in range(_DRAWS)]))


_BETA: Final = Files(
    config={
        "flow_use_beta_schedule": True,
        "flow_beta_schedule_alpha": 3.0,
        "flow_beta_schedule_beta": 7.0,
    }
)


@GROUP.observes(f"{_SIGMA}.beta_alpha", files=_BETA, reset=4.0)
@GROUP.observes(f"{_SIGMA}.beta_beta", files=_BETA, reset=6.0)
def beta(plan: Plan, world: World) -> None:
    draws = [draw_of(42, "train sigma", i, 0) for i in range(_DRAWS)]
    seeds = [int(torch.randint(1 << 62, (1,), generator=draw).item()) for draw in draws]
    expect(_sigmas(plan, world), _near([random.Random(s).betavariate(3, 7) for s in seeds]))


_LIST: Final = Files(
    config={"flow_custom_timesteps": [0.25, 750], "flow_timesteps_mode": "round-robin"}
)


@GROUP.observes(f"{_SIGMA}.values[]", files=_LIST, reset=[0.25, 0.5])
@GROUP.observes(f"{_SIGMA}.order", files=_LIST, reset="random")
def listed(plan: Plan, world: World) -> None:
    expect(_sigmas(plan, world), [0.25, 0.75] * (_DRAWS // 2))


@GROUP.observes(
    "identity.objective.shift",
    files=Files(config={"flow_schedule_shift": 3.0}),
    reset=1.0,
)
def shifted(plan: Plan, world: World) -> None:
    expect(_sigmas(plan, world), _near([_shifted(_sigmoid(i), 3.0) for i in range(_DRAWS)]))


@GROUP.observes(
    "identity.objective.auto_shift",
    files=Files(config={"flow_schedule_auto_shift": True}),
    reset=False,
)
def shifted_by_tokens(plan: Plan, world: World) -> None:
    expected = []
    for i, batch in enumerate(world.batches(plan, world.parts(plan), _DRAWS)):
        tokens = batch.noisy_BCHW[0, 0].numel() // 4
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        expected.append(_shifted(_sigmoid(i), math.exp(mu)))
    expect(_sigmas(plan, world), _near(expected))


_HUBER: Final = Files(config={"loss_type": "huber", "huber_c": 0.3, "huber_schedule": "snr"})


@GROUP.observes("identity.objective.loss", files=_HUBER, reset="smooth_l1")
@GROUP.observes("identity.objective.huber_c", files=_HUBER, reset=0.2)
@GROUP.observes(
    "identity.objective.huber_schedule",
    files=_HUBER,
    reset="constant",
)
@torch.no_grad()
def huber(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    (batch,) = world.batches(plan, parts, 1)
    timesteps = 1000 * batch.sigmas_B
    answer = parts.network.velocity(batch.noisy_BCHW, timesteps, batch.text).velocity_BCHW
    error = (answer - batch.target_BCHW).double()
    c = 0.3 + 0.7 * (1 - batch.sigmas_B.double()) ** 2
    expected = (2 * c * ((error**2 + c**2).sqrt() - c)).mean()
    expect(parts.backend.losses(batch).item(), pytest.approx(expected.item(), rel=1e-5))


_MASKED: Final = Files(
    config={"masked_loss_probability": 0.5},
    cats={"conditioning_data": "masks"},
    others=(MASKS,),
)


@GROUP.observes(
    "identity.objective.masked_loss_probability",
    files=_MASKED,
    reset=1.0,
)
def masked_at_times(plan: Plan, world: World) -> None:
    coins = [torch.rand(1, generator=draw_of(42, "train mask", i, 0)).item() for i in range(_DRAWS)]
    masks = [batch.mask_B1HW for batch in world.batches(plan, world.parts(plan), _DRAWS)]
    expect([mask is not None for mask in masks], [coin < 0.5 for coin in coins])


@GROUP.observes(
    "identity.objective.balance_weight",
    files=Files(
        config={
            "hidream_use_load_balancing_loss": True,
            "hidream_load_balancing_loss_weight": 0.5,
        }
    ),
    reset=0.25,
)
def balanced(plan: Plan, world: World) -> None:
    parts, objective = world.parts(plan), plan.identity.objective
    (batch,) = world.batches(plan, parts, 1)
    losses = batch_losses(parts.network, batch, objective)
    assert losses.balance is not None
    whole = losses.flow_B.mean() + 0.5 * losses.balance
    trained = [each for each in parts.network.transformer.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(whole, trained, allow_unused=True)
    largest = max(each.abs().max().item() for each in gradients if each is not None)
    figures = parts.backend.update([batch], count=1, step=1, learning_rate=RATE)
    expect(figures.grad_max, pytest.approx(largest, rel=1e-5))
    expect(figures.balance_loss, pytest.approx(losses.balance.item(), rel=1e-5))


@GROUP.observes(
    "identity.objective.pad_compat",
    files=Files(config={"pad_compat": True}),
    reset=False,
)
def padded_as_stock(plan: Plan, world: World) -> None:
    parts = world.parts(plan)
    batches = world.batches(plan, parts, 4)  # an epoch
    (tall,) = (each for each in batches if each.noisy_BCHW.shape[2:] == (16, 8))
    lengths: list[int] = []
    parts.network.transformer.x_embedder.register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    parts.backend.losses(tall)
    expect(lengths, [8 * 4 + 1])  # one token stands for all pads


@GROUP.observes("identity.seed", reset=43)
def seeded(plan: Plan, world: World) -> None:
    (batch,) = world.batches(plan, world.parts(plan), 1)
    # The point at sigma plus what is left of the way to noise.
    noise = batch.noisy_BCHW + (1 - batch.sigmas_B) * batch.target_BCHW
    expected = torch.randn(noise.shape, generator=draw_of(42, "train noise", 0, 0))
    expect_close(noise, expected)


@GROUP.observes(
    "identity.caption_dropout_probability",
    files=Files(config={"caption_dropout_probability": 0.5}),
    reset=0.0,
)
def captions_dropped(plan: Plan, world: World) -> None:
    parts, names = world.parts(plan), "caption dropout"
    coins = [torch.rand(1, generator=draw_of(42, names, i, 0)).item() for i in range(_DRAWS)]
    empty = parts.batches.text(world.index(plan).prompts[""]).t5
    texts = [batch.text.t5 for batch in world.batches(plan, parts, _DRAWS)]
    expect([torch.equal(text, empty) for text in texts], [coin < 0.5 for coin in coins])


@GROUP.observes(
    "identity.precision.base",
    files=Files(config={"base_model_precision": "int8-quanto"}),
    reset="no_change",
)
def quantized(plan: Plan, world: World) -> None:
    transformer = world.parts(plan).network.transformer
    held = sum(isinstance(part, QLinear) for part in transformer.modules())
    expect(held, len(stock_linears(world)))


@GROUP.observes(
    "identity.precision.compute",
    files=Files(config={"mixed_precision": "bf16"}),
    reset="fp32",
)
def multiplied_in(plan: Plan, world: World) -> None:
    parts, seen = world.parts(plan), set()
    block = parts.network.transformer.single_stream_blocks[0].block
    block.ff_i.shared_experts.w1.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    parts.backend.losses(world.batches(plan, parts, 1)[0])
    expect(seen, {torch.bfloat16})


def _changed_parts(plan: Plan, world: World) -> set[str]:
    """Which parts of a caption's embeddings differ from those of encoders that are as loaded."""
    specs = [shard.spec for shard in world.index(plan).shards if shard.kind == "text"]
    as_planned, *_ = {str(spec.encoder): spec.encoder for spec in specs}.values()
    plain = {k: "no_change" if k.startswith("text_enc") else v for k, v in as_planned.items()}
    encoders = WarmEncoders(world.base, torch.device("cpu"))
    found, usual = (encoders.text(each, "A red cat.") for each in (as_planned, plain))
    changed = {name for name in ("t5", "llama") if not torch.equal(found[name], usual[name])}
    for name, half in (("clip 1", slice(0, 32)), ("clip 2", slice(32, 64))):
        if not torch.equal(found["pooled"][:, half], usual["pooled"][:, half]):
            changed.add(name)
    return changed


def _enter_encoders() -> None:
    for number, part in enumerate(("clip 1", "clip 2", "t5", "llama"), start=1):

        def check(plan: Plan, world: World, part: str = part) -> None:
            expect(_changed_parts(plan, world), {part})

        GROUP.observes(
            f"identity.precision.text_encoder_{number}",
            files=Files(config={f"text_encoder_{number}_precision": "int8-quanto"}),
            reset="no_change",
        )(check)


_enter_encoders()
