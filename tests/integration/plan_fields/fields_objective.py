"""Timestep sampling, loss, masks, seeded draws, and precision."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from optimum.quanto import QLinear

from tests.integration.plan_fields.environment import Environment, draw_of, stock_linears
from tests.integration.plan_fields.files import MASKS, RATE, Files
from tests.integration.plan_fields.observe import expect, expect_close
from tests.integration.plan_fields.registry import Check, Group
from trainer_core.config.plan import Plan
from trainer_core.data.entries import EntryFolder
from trainer_core.engine.losses import batch_losses
from trainer_core.errors import DeviceError
from trainer_core.hidream.encoders import LoadedEncoders
from trainer_core.hidream.parts import ModelParts

GROUP: Final = Group()
_DRAWS: Final = 8
_OBJECTIVE: Final = "identity.objective"


def _uniform(i: int) -> float:
    draw = draw_of(42, "train sigma", i, 0)
    return torch.rand(1, generator=draw, dtype=torch.float64).item()


def _sigmoid(i: int, scale: float = 1.0) -> float:
    draw = draw_of(42, "train sigma", i, 0)
    normal = torch.randn(1, generator=draw, dtype=torch.float64).item()
    return 1 / (1 + math.exp(-scale * normal))


def _beta(i: int) -> float:
    seed = torch.randint(1 << 62, (1,), generator=draw_of(42, "train sigma", i, 0))
    return random.Random(int(seed.item())).betavariate(3, 7)


def _shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _listed(i: int) -> float:
    return (0.25, 0.75)[i % 2]


_BETA: Final = {
    "flow_use_beta_schedule": True,
    "flow_beta_schedule_alpha": 3.0,
    "flow_beta_schedule_beta": 7.0,
}
_LIST: Final = {"flow_custom_timesteps": [0.25, 750], "flow_timesteps_mode": "round-robin"}
_SIGMAS: Final[tuple[tuple[str, dict[str, Any], Any, Callable[[int], float]], ...]] = (
    # field, options, reset, sigma of micro-batch i
    ("sigma.name", {"flow_use_uniform_schedule": True}, "sigmoid", _uniform),
    ("sigma.sigmoid_scale", {"flow_sigmoid_scale": 2.0}, 1.5, lambda i: _sigmoid(i, scale=2.0)),
    ("sigma.beta_alpha", _BETA, 4.0, _beta),
    ("sigma.beta_beta", _BETA, 6.0, _beta),
    ("sigma.values[]", _LIST, [0.25, 0.5], _listed),
    ("sigma.order", _LIST, "random", _listed),
    ("shift", {"flow_schedule_shift": 3.0}, 1.0, lambda i: _shifted(_sigmoid(i), 3.0)),
)


def _expect_sigmas(found: list[float], expected: list[float]) -> None:
    # Batches hold fp32. The values of the list have no rounding error there.
    exact = [float(torch.tensor(sigma)) for sigma in expected] == expected
    expect(found, expected if exact else pytest.approx(expected, rel=1e-5))


def _sigmas_are(expected: Callable[[int], float]) -> Check:
    def the_first_sigmas_are_these(plan: Plan, environment: Environment) -> None:
        batches = environment.batches(plan, environment.load(plan), _DRAWS)
        _expect_sigmas(
            [float(batch.sigmas_B[0]) for batch in batches], [expected(i) for i in range(_DRAWS)]
        )

    return the_first_sigmas_are_these


for _name, _config, _reset, _expected in _SIGMAS:
    GROUP.add(
        f"{_OBJECTIVE}.{_name}", _sigmas_are(_expected), files=Files(config=_config), reset=_reset
    )


@GROUP.observes(
    f"{_OBJECTIVE}.auto_shift",
    files=Files(config={"flow_schedule_auto_shift": True}),
    reset=False,
)
def sigmas_are_shifted_by_the_number_of_tokens(plan: Plan, environment: Environment) -> None:
    batches, expected = environment.batches(plan, environment.load(plan), _DRAWS), []
    for i, batch in enumerate(batches):
        tokens = batch.noisy_BCHW[0, 0].numel() // 4
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        expected.append(_shifted(_sigmoid(i), math.exp(mu)))
    _expect_sigmas([float(batch.sigmas_B[0]) for batch in batches], expected)


_HUBER: Final = Files(config={"loss_type": "huber", "huber_c": 0.3, "huber_schedule": "snr"})


@GROUP.observes(f"{_OBJECTIVE}.loss", files=_HUBER, reset="smooth_l1")
@GROUP.observes(f"{_OBJECTIVE}.huber_c", files=_HUBER, reset=0.2)
@GROUP.observes(f"{_OBJECTIVE}.huber_schedule", files=_HUBER, reset="constant")
@torch.no_grad()
def the_loss_is_the_pseudo_huber_formula(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    (batch,) = environment.batches(plan, loaded, 1)
    timesteps = 1000 * batch.sigmas_B
    velocity = loaded.network.velocity(batch.noisy_BCHW, timesteps, batch.text).velocity_BCHW
    error = (velocity - batch.target_BCHW).double()
    c = 0.3 + 0.7 * (1 - batch.sigmas_B.double()) ** 2
    expected = (2 * c * ((error**2 + c**2).sqrt() - c)).mean()
    expect(loaded.backend.losses(batch).item(), pytest.approx(expected.item(), rel=1e-5))


_MASKED: Final = Files(
    config={"masked_loss_probability": 0.5},
    cats={"conditioning_data": "masks"},
    others=(MASKS,),
)


def _draws_below_half(purpose: str) -> list[bool]:
    draws = (draw_of(42, purpose, i, 0) for i in range(_DRAWS))
    return [torch.rand(1, generator=draw).item() < 0.5 for draw in draws]


@GROUP.observes(f"{_OBJECTIVE}.masked_loss_probability", files=_MASKED, reset=1.0)
def half_of_the_draws_apply_the_mask(plan: Plan, environment: Environment) -> None:
    batches = environment.batches(plan, environment.load(plan), _DRAWS)
    masks = [batch.mask_B1HW for batch in batches]
    expect([mask is not None for mask in masks], _draws_below_half("train mask"))


@GROUP.observes(
    f"{_OBJECTIVE}.balance_weight",
    files=Files(
        config={
            "hidream_use_load_balancing_loss": True,
            "hidream_load_balancing_loss_weight": 0.5,
        }
    ),
    reset=0.25,
)
def half_of_the_balancing_loss_is_added(plan: Plan, environment: Environment) -> None:
    loaded, objective = environment.load(plan), plan.identity.objective
    (batch,) = environment.batches(plan, loaded, 1)
    losses = batch_losses(loaded.network, batch, objective)
    assert losses.balance is not None
    total = losses.flow_B.mean() + 0.5 * losses.balance
    trained = [each for each in loaded.network.transformer.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    largest = max(each.abs().max().item() for each in gradients if each is not None)
    metrics = loaded.backend.launch([batch], count=1, step=1, learning_rate=RATE).read()
    expect(metrics.grad_max, pytest.approx(largest, rel=1e-5))
    expect(metrics.balance_loss, pytest.approx(losses.balance.item(), rel=1e-5))


@GROUP.observes(f"{_OBJECTIVE}.pad_compat", files=Files(config={"pad_compat": True}), reset=False)
def one_token_is_added_for_all_pads(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    batches = environment.batches(plan, loaded, 4)  # an epoch
    (tall,) = (each for each in batches if each.noisy_BCHW.shape[2:] == (16, 8))
    lengths: list[int] = []
    loaded.network.transformer.x_embedder.register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    loaded.backend.losses(tall)
    expect(lengths, [8 * 4 + 1])


@GROUP.observes("identity.seed", reset=43)
def noise_is_drawn_from_the_seed(plan: Plan, environment: Environment) -> None:
    (batch,) = environment.batches(plan, environment.load(plan), 1)
    # noisy = (1 - sigma) · latents + sigma · noise, target = noise - latents
    noise = batch.noisy_BCHW + (1 - batch.sigmas_B) * batch.target_BCHW
    expected = torch.randn(noise.shape, generator=draw_of(42, "train noise", 0, 0))
    expect_close(noise, expected)


@GROUP.observes(
    "identity.caption_dropout_probability",
    files=Files(config={"caption_dropout_probability": 0.5}),
    reset=0.0,
)
def half_of_the_captions_are_dropped(plan: Plan, environment: Environment) -> None:
    loaded = environment.load(plan)
    empty = loaded.batches.text(environment.index(plan).prompts[""]).t5
    texts = [batch.text.t5 for batch in environment.batches(plan, loaded, _DRAWS)]
    dropped = [torch.equal(text, empty) for text in texts]
    expect(dropped, _draws_below_half("caption dropout"))


@GROUP.observes(
    "identity.precision.base",
    files=Files(config={"base_model_precision": "int8-quanto"}),
    reset="no_change",
)
def every_linear_of_the_base_is_quantised(plan: Plan, environment: Environment) -> None:
    transformer = environment.load(plan).network.transformer
    quantised = sum(isinstance(part, QLinear) for part in transformer.modules())
    expect(quantised, len(stock_linears(environment)))


@GROUP.observes(
    "identity.precision.matmul",
    files=Files(config={"base_model_precision": "int8-quanto"}),
    reset="fp8",
    refuses=(DeviceError,),
)
def a_cpu_has_no_8_bit_products(plan: Plan, environment: Environment) -> None:
    expect(environment.load(plan).matmul.kind, "no_change")


@GROUP.observes(
    "identity.precision.compute", files=Files(config={"mixed_precision": "bf16"}), reset="fp32"
)
def products_are_computed_in_bf16(plan: Plan, environment: Environment) -> None:
    loaded, seen = environment.load(plan), set()
    block = loaded.network.transformer.single_stream_blocks[0].block
    block.ff_i.shared_experts.w1.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    loaded.backend.losses(environment.batches(plan, loaded, 1)[0])
    expect(seen, {torch.bfloat16})


@GROUP.observes(
    "identity.precision.text_cache",
    files=Files(config={"text_cache_precision": "fp8"}),
    reset="no_change",
)
def captions_are_cached_in_8_bits(plan: Plan, environment: Environment) -> None:
    job = environment.job(plan)
    text = EntryFolder(Path(job.shards_dir)).read(
        job.index.entries[job.index.prompts[""]].digest, "text"
    )
    expect({text["t5"].dtype, text["llama"].dtype}, {torch.float8_e4m3fn})
    expect(text["llama_scale"].shape, text["llama"].shape[:-1])


def _changed_embeddings(plan: Plan, environment: Environment) -> set[str]:
    """The encoders whose embeddings differ from those of encoders that are not quantised."""
    (planned,) = (e.encoder for e in environment.index(plan).encodings if e.kind == "text")
    plain = {k: "no_change" if k.startswith("text_enc") else v for k, v in planned.items()}
    encoders = LoadedEncoders(ModelParts(environment.base, torch.device("cpu")), keeps_all=False)
    found, usual = (next(encoders.texts(each, ["A red cat."])) for each in (planned, plain))
    changed = {name for name in ("t5", "llama") if not torch.equal(found[name], usual[name])}
    for name, half in (("clip 1", slice(0, 32)), ("clip 2", slice(32, 64))):
        if not torch.equal(found["pooled"][:, half], usual["pooled"][:, half]):
            changed.add(name)
    return changed


def _only_quantised_encoder_is(name: str) -> Check:
    def only_this_encoders_embeddings_change(plan: Plan, environment: Environment) -> None:
        expect(_changed_embeddings(plan, environment), {name})

    return only_this_encoders_embeddings_change


for _number, _name in enumerate(("clip 1", "clip 2", "t5", "llama"), start=1):
    GROUP.add(
        f"identity.precision.text_encoder_{_number}",
        _only_quantised_encoder_is(_name),
        files=Files(config={f"text_encoder_{_number}_precision": "int8-quanto"}),
        reset="no_change",
    )
