"""Attaches the adapter of a file, so that images are sampled as a run samples them.

A run adds the adapter to the outputs of the frozen base. Weights with the adapter merged in round
otherwise, so that pixels of an image would differ.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from trainer_core.adapters.lokr import LokrLinear
from trainer_core.adapters.lora import with_lora
from trainer_core.adapters.places import device_of, linear_at, parent_of
from trainer_core.adapters.switch import AdapterSwitch
from trainer_core.export.adapter_tensors import ModuleTensors


class LoraLinear(nn.Module):
    """A linear layer with a LoRA of a file; it computes as peft's layer does in evaluation mode."""

    def __init__(
        self, base: nn.Module, lora_A: torch.Tensor, lora_B: torch.Tensor, scale: float
    ) -> None:
        """``lora_A``: [rank, in]; ``lora_B``: [out, rank]; both fp32."""
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(lora_A, requires_grad=False)
        self.lora_B = nn.Parameter(lora_B, requires_grad=False)
        self.scale = scale

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """[..., in] → [..., out] in the type of the base's output."""
        return with_lora(self.base(input_), input_, self.lora_A, self.lora_B, self.scale)


def attach_stored(
    transformer: nn.Module, modules: Mapping[str, ModuleTensors], multiplier: float
) -> None:
    """Add the adapter of each module to its linear layer. Quantise first.

    Args:
        transformer: on its device.
        modules: by path; see ``read_tensors``.
        multiplier: strength; 1 is the adapter as trained.

    Raises:
        BaseModelError: a path is not a linear layer of this model.
    """
    device = device_of(transformer)
    for path, module in modules.items():
        adapted = _adapted(linear_at(transformer, path), module, multiplier, device)
        parent, name = parent_of(transformer, path)
        parent.register_module(name, adapted.requires_grad_(False).eval())


@contextmanager
def laid_over(
    transformer: nn.Module, modules: Mapping[str, ModuleTensors], multiplier: float
) -> Iterator[None]:
    """Inside, the adapter acts on the output of each linear layer, beside one that it has already.

    Arguments as of ``attach_stored``. It acts in forwards without gradients that call the layers,
    as diffusers' own does and fused blocks do not. Afterwards the layers are what they were.
    """
    device = device_of(transformer)
    layers = {path: transformer.get_submodule(path) for path in modules}
    try:
        for path, layer in layers.items():
            parent, name = parent_of(transformer, path)
            parent.register_module(name, _adapted(layer, modules[path], multiplier, device))
        yield
    finally:
        for path, layer in layers.items():
            parent, name = parent_of(transformer, path)
            parent.register_module(name, layer)


def _adapted(
    base: nn.Module, module: ModuleTensors, multiplier: float, device: torch.device
) -> nn.Module:
    """The layer with an adapter that no switch turns off."""
    # Copies, so that each starts at a multiple of 64 bytes; see ``AdapterSwitch.placed``.
    tensors = {
        name.removeprefix("lokr_"): matrix.to(device, copy=True)
        for name, matrix in module.matrices.items()
    }
    scale = module.scale * (1.0 if module.scalar is None else module.scalar)
    if "lora_A" in tensors:
        return LoraLinear(base, tensors["lora_A"], tensors["lora_B"], scale * multiplier)
    return LokrLinear(base, tensors, scale=scale, multiplier=multiplier, switch=AdapterSwitch())
