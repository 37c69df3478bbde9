"""Finds the modules that an adapter replaces."""

from itertools import chain

import torch
from torch import nn

from trainer_core.errors import BaseModelError
from trainer_core.precision.linear8 import Linear8


def linear_at(model: nn.Module, path: str) -> nn.Linear | Linear8:
    """The linear layer at a path, plain or in 8 bits (quanto's QLinear is an ``nn.Linear``).

    Raises BaseModelError where the model has no such module, or it is not a linear layer.
    """
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise BaseModelError(f"the base model has no module {path}") from error
    if not isinstance(module, nn.Linear | Linear8):
        raise BaseModelError(f"{path} is a {type(module).__name__}, not a linear layer")
    return module


def device_of(model: nn.Module) -> torch.device:
    """The device that the model computes on: that of its first tensor.

    The weights of linears in the middle may be held by the host.
    """
    return next(chain(model.parameters(), model.buffers())).device


def parent_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The parent of the module at a path, and the module's name in it."""
    parent_path, _, name = path.rpartition(".")
    return model.get_submodule(parent_path), name
