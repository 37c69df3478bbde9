"""Opens the optimizer of one process."""

from collections.abc import Mapping
from typing import Final

import torch

from trainer_core.config.plan import HOST_ASKING_OPTIMIZERS, OptimizerPlan
from trainer_core.optim.adamw import AdamW
from trainer_core.optim.guarded import GuardedOptimizer, LeafOptimizer
from trainer_core.optim.host_asking import HostAskingOptimizer
from trainer_core.optim.lion import Lion
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.rounding import Rounding

_ON_DEVICE: Final[Mapping[str, type[AdamW | Lion]]] = {
    "optimi-lion": Lion,
    "optimi-adamw": AdamW,
    "adamw": AdamW,
}


def open_optimizer(
    parameters: ParameterTensors, plan: OptimizerPlan, seed: int = 0
) -> GuardedOptimizer:
    """The plan's optimizer over all trained parameters.

    Its state has the type of the parameters. In bf16 both are rounded stochastically; ``seed`` is
    that of the draws. DeepSpeed takes the libraries' optimizers instead: see ``optim.build``.
    """
    if plan.name in HOST_ASKING_OPTIMIZERS:
        return HostAskingOptimizer(parameters, plan)
    return open_leaf_optimizer(parameters, plan, seed)


def open_leaf_optimizer(
    parameters: ParameterTensors, plan: OptimizerPlan, seed: int
) -> LeafOptimizer:
    """As ``open_optimizer``, for one of ``ROUNDING_OPTIMIZERS``."""
    optimizer, leaf = _ON_DEVICE[plan.name], parameters.leaves[0]
    rounding: Rounding | None = None
    if leaf.dtype is torch.bfloat16:
        assert len(parameters.named) == len(parameters.leaves)  # the draws depend on the names
        fields = (*optimizer.fields, "value")
        rounding = Rounding(seed, parameters.named, fields).to(leaf.device)
    return optimizer(parameters, plan, rounding)
