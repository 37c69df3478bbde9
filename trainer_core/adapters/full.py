"""Full rank: all weights of the model are trained."""

import torch
from torch import nn

from trainer_core.errors import BaseModelError


def full_rank_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Enable gradients for every weight of the model, and return the weights by name.

    Weights have to be fp32: in bf16 a small update rounds to nothing. Raises BaseModelError where
    one is not, for instance after quantisation.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.dtype is not torch.float32 or type(parameter) is not nn.Parameter:
            raise BaseModelError(
                f"{name} is held as {type(parameter).__name__} of {parameter.dtype}; full rank "
                "trains fp32 weights"
            )
    model.requires_grad_(True)
    return parameters
