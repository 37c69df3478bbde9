"""Optimizers by the names of the plan."""

from collections.abc import Iterable

import torch
from optimi import Lion
from torch import nn

from trainer_core.config.plan import OptimizerPlan


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: OptimizerPlan
) -> torch.optim.Optimizer:
    """The optimizer over all trained parameters, in one group.

    The rate is set before each step (``set_learning_rate``); Lion decays weights by rate · decay.
    Updates run parameter by parameter on a CPU, so that their bits do not depend on grouping.
    """
    trained = list(parameters)
    on_cuda = any(parameter.is_cuda for parameter in trained)
    if plan.name == "optimi-lion":
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
    return torch.optim.AdamW(
        trained,
        lr=plan.learning_rate,
        betas=plan.betas,
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        foreach=on_cuda,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next update, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
