"""The optimizers of a plan.

A new optimizer is a name in ``OptimizerPlan``, a builder here and its row in ``BUILDERS``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import torch
from optimi import AdamW, Lion
from torch import nn

from trainer_core.config.plan import OptimizerPlan

MIN_8BIT_ELEMENTS: Final = 4096
"""bitsandbytes keeps the state of smaller tensors in 32 bits: 8 would save too little."""

Builder = Callable[[list[nn.Parameter], OptimizerPlan], torch.optim.Optimizer]
"""Builds an optimizer with all parameters in one group."""


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: OptimizerPlan
) -> torch.optim.Optimizer:
    """The plan's optimizer over all trained parameters, in one group.

    ``set_learning_rate`` sets the rate before each step. Weight decay is decoupled: each step
    shrinks weights by rate · decay. On a CPU parameters are updated one by one, because the
    rounding of a grouped update depends on the grouping.
    """
    return BUILDERS[plan.name](list(parameters), plan)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of the next update in every group. Prodigy multiplies its own estimate by it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _lion(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    on_cuda = _is_on_cuda(trained)
    optimizer: torch.optim.Optimizer = Lion(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        weight_decay=plan.weight_decay,
        # Set explicitly: optimi chooses it only when it creates its state, and a resumed optimizer
        # has its state already. It has no effect on fp32 weights.
        kahan_sum=True,
        foreach=None if on_cuda else False,
        triton=None if on_cuda else False,
    )
    return optimizer


def _optimi_adamw(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """AdamW with bias-corrected betas: torch's update up to rounding."""
    on_cuda = _is_on_cuda(trained)
    optimizer: torch.optim.Optimizer = AdamW(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        kahan_sum=True,  # as for Lion
        foreach=None if on_cuda else False,
        triton=None if on_cuda else False,
    )
    return optimizer


def _adamw(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        foreach=_is_on_cuda(trained),
    )


def _lion_8bit(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """Lion with 8-bit momentum, in blocks of 256 elements that cuda may page to host memory."""
    from bitsandbytes.optim import PagedLion8bit  # noqa: PLC0415 - slow, and rarely wanted

    optimizer: torch.optim.Optimizer = PagedLion8bit(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        weight_decay=plan.weight_decay,
        min_8bit_size=MIN_8BIT_ELEMENTS,
    )
    return optimizer


def _prodigy(trained: list[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """Prodigy: Adam that estimates its rate from the distance travelled (Mishchenko, Defazio 2023).

    ``safeguard_warmup`` is on: otherwise the small rates of a warm-up stay in the denominator of
    the estimate, and the estimate grows too large afterwards.
    """
    from prodigyopt import Prodigy  # noqa: PLC0415 - rarely wanted

    optimizer: torch.optim.Optimizer = Prodigy(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    return optimizer


BUILDERS: Final[Mapping[str, Builder]] = {
    "optimi-lion": _lion,
    "optimi-adamw": _optimi_adamw,
    "adamw": _adamw,
    "bnb-lion8bit-paged": _lion_8bit,
    "prodigy": _prodigy,
}
"""One builder for each name that ``OptimizerPlan`` allows."""


def _is_on_cuda(trained: Iterable[nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in trained)
