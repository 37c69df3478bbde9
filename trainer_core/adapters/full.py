"""Full rank: all weights of the model are trained."""

import torch
from torch import nn

from trainer_core.config.plan import Plan
from trainer_core.errors import BaseModelError


def full_rank_parameters(model: nn.Module, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Enable gradients for every weight of the model, and return the weights by name.

    ``dtype``: in which the plan trains them. Raises BaseModelError where a weight is held another
    way, for instance after quantisation.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dtype is not dtype or type(parameter) is not nn.Parameter:
            raise BaseModelError(
                f"{name} is held as {type(parameter).__name__} of {parameter.dtype}; full rank "
                f"trains weights of {dtype}"
            )
    model.requires_grad_(True)
    return parameters


def stays_in_place(plan: Plan) -> bool:
    """Whether the base's weights stay where they are loaded: frozen, or each updated on its own.

    Else DeepSpeed shards them, or they are moved into one tensor with one gradient.
    """
    operation, identity = plan.operation, plan.identity
    if identity.adapter is not None:
        return True
    is_separate = operation.release_gradients or identity.precision.trained == "bf16"
    return operation.zero_stage is None and is_separate
