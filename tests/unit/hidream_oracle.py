"""What training should compute, in float64: an untouched diffusers model and formulas.

Nothing here imports what is tested. The model is called as the stock pipeline calls it, with 4D
latents; where no padding is wanted, it is built for exactly as many patches as there are.
Letters: B samples, C channels, H × W latent cells, S tokens, E experts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers import transformer_hidream_image as stock_module

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "axes_dims_rope": (16, 8, 8),
        "llama_layers": [0, 1, 2, 2],
    },
    "wide": {
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 64,
        "axes_dims_rope": (32, 16, 16),
        "llama_layers": [0, 2, 2],
    },
}
SHAPES["small"] = {
    **SHAPES["tiny"],
    "num_layers": 1,
    "num_single_layers": 1,
    "llama_layers": [0, 2],
}
LLAMA_LAYERS = 3
LONGEST = (12, 12)
"""Latent cells for which the models are built: 36 patches at the most."""


def model_of(shape: str, cells: tuple[int, int] = LONGEST) -> HiDreamImageTransformer2DModel:
    """A fresh model in float64 and train mode; equal weights for equal shapes."""
    torch.manual_seed(3)
    model = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_attention_heads=4,
        caption_channels=[48, 64],
        text_emb_dim=40,
        num_routed_experts=4,
        num_activated_experts=2,
        max_resolution=cells,
        **SHAPES[shape],
    )
    return model.double().train()


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@dataclass(frozen=True, kw_only=True)
class Question:
    """A batch before anything was made of it, all float64 but the sigmas."""

    size: tuple[int, int]
    latents: torch.Tensor
    noise: torch.Tensor
    sigmas: torch.Tensor
    t5: torch.Tensor
    llama: torch.Tensor
    """Batch first."""
    pooled: torch.Tensor
    mask: torch.Tensor | None = None
    is_prior: torch.Tensor | None = None

    @classmethod
    def of(cls, size: tuple[int, int], *, batch: int = 2, **more: Any) -> "Question":
        return cls(
            size=size,
            latents=draw(batch, 16, *size, seed=10),
            noise=draw(batch, 16, *size, seed=11),
            sigmas=torch.rand(batch, generator=torch.Generator().manual_seed(12)),
            t5=draw(batch, 7, 48, seed=13),
            llama=draw(batch, LLAMA_LAYERS, 7, 64, seed=14),
            pooled=draw(batch, 40, seed=15),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The objective, in its own words."""

    loss: str = "l2"
    c: float = 0.1
    schedule: str = "snr"
    padded: bool = False


@dataclass
class Answer:
    flow: torch.Tensor
    balance: torch.Tensor
    gates: list[torch.Tensor] = field(default_factory=list)


def rope64(
    query: torch.Tensor, key: torch.Tensor, freqs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' rotation without its rounding to fp32, which also rounds gradients."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = x.unflatten(-1, (-1, 1, 2))
        return (freqs[..., 0] * pairs[..., 0] + freqs[..., 1] * pairs[..., 1]).flatten(-2)

    return turned(query), turned(key)


_ROPE = stock_module.apply_rope


def stock_prediction(
    model: HiDreamImageTransformer2DModel,
    weights: Mapping[str, torch.Tensor],
    question: Question,
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Velocity [B, C, H, W], and what went into each gate with the weight it used."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [
        part.register_forward_hook(lambda gate, args, _: seen.append((args[0], gate.weight)))
        for part in model.modules()
        if type(part).__name__ == "MoEGate"
    ]
    sigma = question.sigmas.double().view(-1, 1, 1, 1)
    arguments = {
        "hidden_states": (1 - sigma) * question.latents + sigma * question.noise,
        "timesteps": question.sigmas * 1000,
        "encoder_hidden_states_t5": question.t5,
        "encoder_hidden_states_llama3": question.llama.permute(1, 0, 2, 3),
        "pooled_embeds": question.pooled,
        "return_dict": False,
    }
    try:
        stock_module.apply_rope = rope64
        (output,) = torch.func.functional_call(model, dict(weights), (), arguments)
    finally:
        stock_module.apply_rope = _ROPE
        for handle in handles:
            handle.remove()
    rows, columns = question.size[0] // 2, question.size[1] // 2
    picture = torch.zeros(*output.shape[:2], *question.size, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            patch = output[:, :, row * columns + column].reshape(*output.shape[:2], 2, 2)
            picture[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = patch
    return -picture, seen


def answer(
    model: HiDreamImageTransformer2DModel,
    weights: Mapping[str, torch.Tensor],
    base_weights: Mapping[str, torch.Tensor],
    question: Question,
    wanted: Wanted,
) -> Answer:
    """Loss of each sample, and the balancing term."""
    target = question.noise - question.latents
    if question.is_prior is not None:
        with torch.no_grad():
            base, _ = stock_prediction(model, base_weights, question)
        target = torch.stack(
            [b if prior else t for b, t, prior in zip(base, target, question.is_prior, strict=True)]
        )
    prediction, gates = stock_prediction(model, weights, question)
    cost = cost_of(prediction - target, question.sigmas.double(), wanted)
    if question.mask is None:
        flow = cost.flatten(1).mean(1)
    else:
        channels = cost.shape[1]
        flow = (cost * question.mask).flatten(1).sum(1)
        flow = flow / (question.mask.flatten(1).sum(1) * channels)
    patches = question.size[0] * question.size[1] // 4
    longest = int(model.max_seq)
    terms = []
    for number, (hidden, weight) in enumerate(gates):
        tokens = hidden
        if question.size[0] != question.size[1]:
            tokens = torch.cat([hidden[:, :patches], hidden[:, longest:]], dim=1)
        doubles = model.config.num_layers
        assert tokens.shape[1] == patches + (0 if number < doubles else 21)
        terms.append(gate_balance(tokens.flatten(0, 1), weight))
    return Answer(flow, torch.stack(terms).sum())


def gate_balance(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Four experts, two chosen a token."""
    probabilities = torch.softmax(tokens @ weight.T, dim=-1)
    best = probabilities.topk(2, dim=-1).indices
    total = torch.zeros((), dtype=torch.float64)
    for expert in range(4):
        share = (best == expert).double().mean()
        total = total + probabilities[:, expert].mean() * 4 * share
    return total


def cost_of(error: torch.Tensor, sigmas: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    if wanted.loss == "l2":
        return error**2
    costs = []
    for one, sigma in zip(error, sigmas.tolist(), strict=True):
        c = wanted.c
        if wanted.schedule == "exponential":
            c = math.exp(sigma * math.log(wanted.c))
        if wanted.schedule == "snr":
            noise_to_data = sigma / (1 - sigma)
            c = (1 - wanted.c) / (1 + noise_to_data) ** 2 + wanted.c
        scale = 2 * c if wanted.loss == "huber" else 2
        costs.append(scale * ((one**2 + c**2).sqrt() - c))
    return torch.stack(costs)
