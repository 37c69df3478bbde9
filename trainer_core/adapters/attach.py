"""Attaches an adapter of any kind."""

from typing import Any, Protocol

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from trainer_core.adapters.factors import AdapterFactors, Trained
from trainer_core.adapters.lokr import LokrLinear, attach_lokr
from trainer_core.adapters.lora import attach_lora
from trainer_core.adapters.switch import AdapterSwitch
from trainer_core.config.plan import LokrAdapter, LoraAdapter


class Adapter(Protocol):
    """A set of trained layers added to a frozen base."""

    @property
    def num_modules(self) -> int:
        """Number of adapted linear layers."""

    @property
    def has_dropout(self) -> bool:
        """Whether a forward in train mode drops elements."""

    @property
    def switch(self) -> AdapterSwitch:
        """What the layers read in a forward. Only ``Network`` sets it."""

    def factors(
        self, trained: Trained, dtype: torch.dtype, seed: torch.Tensor | None = None
    ) -> AdapterFactors:
        """The matrices of all deltas for one forward; equal shapes are computed together.

        Args:
            trained: the trained tensors.
            dtype: of the products.
            seed: of the dropout of this forward, 0-dimensional, int64; None: nothing is dropped.
        """

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, fp32, by logical name: ``<path in the transformer>.<name>``."""


def base_of(linear: Any) -> Any:
    """The frozen linear itself, without its adapter, if it has one."""
    if isinstance(linear, LokrLinear):
        return linear.base
    return linear.base_layer if isinstance(linear, LoraLayer) else linear


def attach_adapter(model: nn.Module, adapter: LokrAdapter | LoraAdapter, seed: int) -> Adapter:
    """Adapt every linear layer that the plan names, and freeze everything else.

    Call it after quantisation. Raises BaseModelError where a path is not a linear layer of the
    model.
    """
    if isinstance(adapter, LoraAdapter):
        return attach_lora(model, adapter, seed)
    return attach_lokr(model, adapter, seed)
