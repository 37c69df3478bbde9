"""The trained parameters in memory as ``write_adapter`` takes them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class ParametersInMemory:
    """A ``Parameters`` of tensors, on any device and in any float type."""

    tensors: Mapping[str, torch.Tensor]
    """By logical name, each whole."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def read(self, name: str, scale: float) -> memoryview:
        tensor = self.tensors[name].detach().cpu()
        if scale != 1.0:
            tensor = tensor.double() * scale
        return tensor.float().contiguous().numpy().data.cast("B")

    def read_bf16(self, name: str) -> memoryview:
        tensor = self.tensors[name].detach().bfloat16().cpu().contiguous()
        return tensor.view(-1).view(torch.uint8).numpy().data
