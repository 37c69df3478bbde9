"""Opens the optimizer of one process."""

from collections.abc import Callable, Mapping
from typing import Final

from trainer_core.config.plan import HOST_ASKING_OPTIMIZERS, OptimizerPlan
from trainer_core.optim.adamw import AdamW
from trainer_core.optim.guarded import GuardedOptimizer
from trainer_core.optim.host_asking import HostAskingOptimizer
from trainer_core.optim.lion import Lion
from trainer_core.optim.parameters import ParameterTensors

_ON_DEVICE: Final[Mapping[str, Callable[[ParameterTensors, OptimizerPlan], GuardedOptimizer]]] = {
    "optimi-lion": Lion,
    "optimi-adamw": AdamW,
    "adamw": AdamW,
}


def open_optimizer(parameters: ParameterTensors, plan: OptimizerPlan) -> GuardedOptimizer:
    """The plan's optimizer over all trained parameters.

    DeepSpeed takes the libraries' optimizers instead: see ``optim.build``.
    """
    if plan.name in HOST_ASKING_OPTIMIZERS:
        return HostAskingOptimizer(parameters, plan)
    return _ON_DEVICE[plan.name](parameters, plan)
