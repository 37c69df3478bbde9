"""LoRA by peft: each adapted linear layer adds alpha / rank · B · A.

A and B are fp32 whatever type the base has. peft itself would use the base's type. In bf16 small
updates round to nothing.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import functional

from trainer_core.adapters.factors import (
    AdapterFactors,
    Trained,
    by_path,
    grouped_by,
    paired,
)
from trainer_core.adapters.places import device_of, linear_at
from trainer_core.adapters.start import kaiming, start_generator
from trainer_core.adapters.switch import AdapterSwitch
from trainer_core.config.plan import LoraAdapter
from trainer_core.kernels.dropout import dropout
from trainer_core.precision.linear8 import Linear8

_NAME: Final = "default"
"""peft's name of the one adapter."""


class SwitchedLinear(PeftLinear):  # type: ignore[misc]
    """peft's adapted linear layer, turned on and off by an ``AdapterSwitch``.

    peft's own ``enable_adapters`` changes an attribute of each layer and ``requires_grad`` of each
    of its parameters.
    """

    def __init__(self, *args: Any, switch: AdapterSwitch, **options: Any) -> None:
        """Arguments as peft passes them to its layers, and the switch."""
        super().__init__(*args, **options)
        self._switch: Final = switch

    @property
    def disable_adapters(self) -> bool:
        """Read by peft's forward."""
        return not self._switch.is_on

    def forward(self, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """As peft's, or as with the exported file."""
        if not (self._switch.is_exported and self._switch.is_on):
            output: torch.Tensor = super().forward(x, *args, **options)
            return output
        A, B = (each[_NAME].weight for each in (self.lora_A, self.lora_B))
        # As in ``lora_layout``: in fp64, into B. Nothing is dropped while images are sampled.
        scaled_B = (B.double() * self.scaling[_NAME]).float()
        own_A = self._switch.placed(A)
        return with_lora(self.base_layer(x), x, own_A, scaled_B, self._switch.strength)


def with_lora(
    output: torch.Tensor,
    input_: torch.Tensor,
    lora_A: torch.Tensor,
    lora_B: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """``output`` with the delta of its linear layer added, as peft does in evaluation mode.

    Args:
        output: of the base, [..., out].
        input_: of the base, [..., in].
        lora_A: [rank, in], fp32.
        lora_B: [out, rank], fp32.
        scale: multiplied with the delta.
    """
    inner = functional.linear(input_.to(lora_A.dtype), lora_A)
    return (output + functional.linear(inner, lora_B) * scale).to(output.dtype)


class SeededDropout(nn.Dropout):
    """Dropout of the input of one linear's A, by the seed that the ``AdapterSwitch`` holds.

    Without ``AdapterSwitch.seeded`` it is torch's own.
    """

    def __init__(self, probability: float, number: int, switch: AdapterSwitch) -> None:
        """``number``: of the linear in the adapter; each drops other elements."""
        super().__init__(probability)
        self.number: Final = number
        self._switch: Final = switch

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """The same shape and type."""
        if not self._switch.is_seeded:
            return super().forward(input_)
        seed = self._switch.seed
        if seed is None or not self.training:
            return input_
        return dropout(input_, self.p, seed, self.number)


class LoraNetwork:
    """All adapted linear layers of one model, by their paths before peft wrapped them."""

    def __init__(
        self, layers: Mapping[str, LoraLayer], switch: AdapterSwitch, *, has_dropout: bool
    ) -> None:
        self.layers: Final = MappingProxyType(dict(layers))
        self.num_modules: Final = len(self.layers)
        self.has_dropout: Final = has_dropout
        self.switch: Final = switch
        self._alike: Final = {
            name: grouped_by(
                {
                    path: getattr(layer, name)[_NAME].weight.shape
                    for path, layer in self.layers.items()
                }
            )
            for name in ("lora_A", "lora_B")
        }

    def factors(
        self, trained: Trained, dtype: torch.dtype, seed: torch.Tensor | None = None
    ) -> AdapterFactors:
        """As ``Adapter.factors``."""
        a, b = (
            [
                (paths, trained.stacked([f"{path}.{name}" for path in paths]))
                for paths in self._alike[name]
            ]
            for name in ("lora_A", "lora_B")
        )
        # One rank and one alpha for all layers, so one scale.
        scale = next(iter(self.layers.values())).scaling[_NAME] * self.switch.strength
        scaled_b = [(paths, b_nOr * scale) for paths, b_nOr in b]
        values, links = paired(by_path(a, dtype), by_path(scaled_b, dtype))
        return AdapterFactors(values=values, links=links, seed=seed, is_on=self.switch.is_on)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by logical name.

        ``<path>.lora_A`` is [rank, in] and ``<path>.lora_B`` is [out, rank].
        """
        return {
            f"{path}.{name}": getattr(layer, name)[_NAME].weight
            for path, layer in self.layers.items()
            for name in ("lora_A", "lora_B")
        }


def attach_lora(model: nn.Module, adapter: LoraAdapter, seed: int) -> LoraNetwork:
    """Let peft adapt every linear layer that the plan names; freeze everything else.

    Quantise first. Quantising later would include A and B.

    Args:
        model: the transformer, on its device.
        adapter: with ``modules`` resolved to paths.
        seed: start values depend only on it and on the path.

    Raises:
        BaseModelError: a path is not a linear layer of this model.
    """
    linears = {path: linear_at(model, path) for path in adapter.modules}
    device = device_of(model)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.modules),
        init_lora_weights=False,  # start values are set below
    )
    switch = AdapterSwitch()
    # peft documents this method for custom layers, although its name starts with "_".
    switched = partial(SwitchedLinear, switch=switch)
    config._register_custom_module({nn.Linear: switched, Linear8: switched})
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    model.requires_grad_(False)
    layers: dict[str, Any] = {path: model.get_submodule(path) for path in adapter.modules}
    for number, (path, layer) in enumerate(layers.items()):
        linear = linears[path]
        if adapter.dropout > 0:
            layer.lora_dropout[_NAME] = SeededDropout(adapter.dropout, number, switch)
        for name, start in _start_values(path, linear, adapter, seed).items():
            part = getattr(layer, name)[_NAME]
            part.weight = nn.Parameter(start.to(device))
        layer.train(linear.training)
    return LoraNetwork(layers, switch, has_dropout=adapter.dropout > 0)


def _start_values(
    path: str, base: nn.Linear | Linear8, adapter: LoraAdapter, seed: int
) -> dict[str, torch.Tensor]:
    """peft's start values, fp32: B is 0; A is Kaiming, or normal with deviation 1 / rank."""
    generator = start_generator(seed, f"lora {path}.lora_A")
    shape = (adapter.rank, base.in_features)
    if adapter.init == "gaussian":
        a_rI = torch.randn(shape, generator=generator) / adapter.rank
    else:
        a_rI = kaiming(shape, generator)
    return {"lora_A": a_rI, "lora_B": torch.zeros(base.out_features, adapter.rank)}
