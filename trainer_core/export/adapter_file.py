"""Read an adapter: the change that a LoKr or LoRA file makes to each linear layer.

Nothing is skipped. A key without a linear layer in the base model is an error, and so is a number
of modules that differs from the file's metadata. LyCORIS' loader ignores both silently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_core.config.plan.shapes import LinearShape
from trainer_core.errors import AdapterFileError
from trainer_core.export.adapter_tensors import AdapterTensors, ModuleTensors, read_tensors
from trainer_core.weights.adapter_keys import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleDelta:
    """The change of one linear layer as two factors; ``matrix`` computes their product."""

    kind: Kind
    left: torch.Tensor
    """LoKr: w1 [a, c]. LoRA: B [out, rank]. fp32."""
    right: torch.Tensor
    """LoKr: w2 [K, D]. LoRA: A [rank, in]. fp32."""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        (rows, columns), (below, across) = self.left.shape, self.right.shape
        return (rows * below, columns * across) if self.kind == "lokr" else (rows, across)

    def matrix(self) -> torch.Tensor:
        """The change of the weight: [out, in], fp32 on the CPU."""
        left = self.left * self.scale
        return torch.kron(left, self.right) if self.kind == "lokr" else left @ self.right


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """A complete adapter; each of its modules is a linear layer of the base model."""

    kind: Kind
    deltas: Mapping[str, ModuleDelta]
    """Path of the module in diffusers' transformer → its change; never empty."""


def read_adapter(file: Path, linears: Sequence[LinearShape]) -> AdapterFile:
    """The adapter in ``file``: LoKr or LoRA, with any of the names in ``weights.adapter_keys``.

    Alpha over rank is applied once. A multiplier in the metadata is ignored: the caller chooses the
    strength.

    Args:
        file: safetensors.
        linears: linear layers of the base model; see ``hidream_linears``.

    Raises:
        AdapterFileError: as ``read_tensors``; or a shape does not fit the base model.
    """
    found, deltas = _checked(file, linears)
    return AdapterFile(kind=found.kind, deltas=deltas)


def read_modules(file: Path, linears: Sequence[LinearShape]) -> Mapping[str, ModuleTensors]:
    """As ``read_adapter``: by path, the factors as the file has them."""
    return _checked(file, linears)[0].modules


def _checked(
    file: Path, linears: Sequence[LinearShape]
) -> tuple[AdapterTensors, dict[str, ModuleDelta]]:
    found = read_tensors(file, linears)
    shapes = {linear.path: (linear.out_features, linear.in_features) for linear in linears}
    deltas = {path: _delta(module) for path, module in found.modules.items()}
    for path, delta in deltas.items():
        if delta.shape != shapes[path]:
            raise AdapterFileError(
                f"{file}: {path} would change a weight of {delta.shape}, the base model has "
                f"{shapes[path]}: the adapter was made for another model"
            )
        if not (delta.left.isfinite().all() and delta.right.isfinite().all()):
            raise AdapterFileError(f"{file}: {path} holds values that are not finite")
    return found, deltas


def _delta(module: ModuleTensors) -> ModuleDelta:
    matrices = module.matrices
    if "lora_A" in matrices:
        return ModuleDelta(
            kind="lora", left=matrices["lora_B"], right=matrices["lora_A"], scale=module.scale
        )
    left, right = (_whole(matrices, name) for name in ("lokr_w1", "lokr_w2"))
    return ModuleDelta(kind="lokr", left=left, right=right, scale=module.scale)


def _whole(matrices: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in matrices:
        return matrices[name]
    return (matrices[f"{name}_a"].double() @ matrices[f"{name}_b"].double()).float()
