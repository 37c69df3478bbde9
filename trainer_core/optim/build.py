"""Optimizers by the names of the plan."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from optimi import Lion
from torch import nn

from trainer_core.config.plan import OptimizerPlan

MIN_8BIT_ELEMENTS: Final = 4096
"""bitsandbytes holds the state of smaller tensors in 32 bits: there is little to save."""


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: OptimizerPlan
) -> torch.optim.Optimizer:
    """The optimizer over all trained parameters, in one group.

    The rate is set before each step (``set_learning_rate``); weight decay is decoupled: weights
    shrink by rate · decay. Updates run parameter by parameter on a CPU, so that their bits do not
    depend on grouping.
    """
    trained = list(parameters)
    on_cuda = any(parameter.is_cuda for parameter in trained)
    match plan.name:
        case "optimi-lion":
            return _lion(trained, plan, on_cuda=on_cuda)
        case "adamw":
            return torch.optim.AdamW(
                trained,
                lr=plan.learning_rate,
                betas=plan.betas,
                eps=plan.eps,
                weight_decay=plan.weight_decay,
                foreach=on_cuda,
            )
        case "bnb-lion8bit-paged":
            return _lion_8bit(trained, plan)
        case "prodigy":
            return _prodigy(trained, plan)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next update, in every group; Prodigy multiplies its own estimate by it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _lion(
    trained: list[nn.Parameter], plan: OptimizerPlan, *, on_cuda: bool
) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = Lion(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        weight_decay=plan.weight_decay,
        # Said outright: left to itself it is found out with the first state, which a resumed
        # optimizer already has. Without effect on fp32 weights.
        kahan_sum=True,
        foreach=None if on_cuda else False,
        triton=None if on_cuda else False,
    )
    return optimizer


def _lion_8bit(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """Momentum in blocks of 256 bytes, in memory that cuda pages out; a CPU has nothing to page."""
    from bitsandbytes.optim import PagedLion8bit  # noqa: PLC0415 - slow, and rarely wanted

    optimizer: Any = PagedLion8bit(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        weight_decay=plan.weight_decay,
        min_8bit_size=MIN_8BIT_ELEMENTS,
    )
    built: torch.optim.Optimizer = optimizer
    return built


def _prodigy(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """Adam whose rate is estimated from the distance travelled (Mishchenko and Defazio 2023).

    Bias correction and the safeguard are on: without the second a warm-up's small rates stay in the
    estimate's denominator, and it grows too large once the warm-up is over.
    """
    from prodigyopt import Prodigy  # noqa: PLC0415 - rarely wanted

    optimizer: Any = Prodigy(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    built: torch.optim.Optimizer = optimizer
    return built
