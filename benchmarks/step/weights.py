"""Random weights and adapter values, a function of names: equal in every model of these names.

Models are built one after another, because a card holds one. So nothing is copied between them:
each draws the same numbers. A CPU and a CUDA device draw different ones.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import nn

from trainer_core.config.plan import MatmulKind
from trainer_core.hidream.base import allocate_base
from trainer_core.hidream.stacks import linear_stacks
from trainer_core.precision.eight_bits import rounding_targets
from trainer_core.precision.linear8 import dtype8_of, hold_in_8bit

TORCH_GAIN: Final = 3**-0.5
"""Size of a weight relative to one that keeps the variance of its input: as ``nn.Linear`` draws."""
ROW_SPREAD: Final = 0.3
"""Each row of a weight is scaled by exp(spread · normal), as rows of trained weights differ."""
_BIAS_STD: Final = 0.02
_NORM_STD: Final = 0.1
_ADAPTER_SCALE: Final = 0.3
"""Size of an adapter's delta, relative to a weight that keeps the variance of its input."""

_Model = TypeVar("_Model", bound=nn.Module)


def random_model(
    model_class: type[_Model],
    config: Mapping[str, Any],
    *,
    drawn_on: torch.device,
    device: torch.device,
    dtype: torch.dtype,
    gain: float = TORCH_GAIN,
) -> _Model:
    """A frozen model in train mode, whose weights follow from their names.

    Args:
        model_class: diffusers' transformer or one with the same parameter names.
        config: its arguments.
        drawn_on: where numbers are drawn. A card draws 17 billion in a second.
        device: where the model is.
        dtype: of the weights. Values are rounded to bf16 first, so that all types hold the same.
        gain: size of the weights; at 1 each keeps the variance of its input.
    """
    with torch.device("meta"):
        model = model_class(**config)
    # diffusers' own ``to`` warns about layers that this model does not have.
    nn.Module.to(model, dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_rounded_weight(name, parameter.shape, drawn_on, gain))
    return model.requires_grad_(False).train()


def random_base(
    config: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    matmul: MatmulKind,
    on_host: Collection[str],
    gain: float = TORCH_GAIN,
) -> HiDreamImageTransformer2DModel:
    """diffusers' transformer with the weights of ``random_model``, as ``load_base`` loads it.

    Args:
        config: its arguments.
        device: where numbers are drawn, and where the model is.
        dtype: of weights that are not in 8 bits.
        matmul: how the base is multiplied.
        on_host: paths of linears whose weights are on the CPU.
        gain: as for ``random_model``.
    """
    with torch.device("meta"):
        model = HiDreamImageTransformer2DModel(**config)
    nn.Module.to(model, dtype).requires_grad_(False)
    dtype8 = dtype8_of(matmul)
    if dtype8 is not None:
        hold_in_8bit(model, torch.device("meta"), dtype8)
    allocate_base(model, device, linear_stacks(model), on_host)
    with torch.no_grad():
        for name, target in rounding_targets(model).items():
            target.put(_rounded_weight(name, target.shape, device, gain))
    model.train()
    return model


def fill_adapter(parameters: Mapping[str, torch.Tensor], *, drawn_on: torch.device) -> None:
    """Give trained tensors values away from zero, by logical name (``<path>.w1``).

    The delta of each linear is then about half as large as its weight. bf16 holds the values
    exactly. The tensors are changed in place.
    """
    with torch.no_grad():
        for name, parameter in parameters.items():
            kind = name.rpartition(".")[2]
            if kind == "scalar":
                value = torch.full(parameter.shape, _ADAPTER_SCALE)
            else:
                value = _normal(name, parameter.shape, drawn_on)
                value /= math.sqrt(parameter.shape[-1])
                if kind == "lora_B":
                    value *= _ADAPTER_SCALE
            parameter.copy_(value.bfloat16())


def _rounded_weight(
    name: str, shape: Sequence[int], device: torch.device, gain: float
) -> torch.Tensor:
    """bf16."""
    value = _weight(name, shape, device)
    return (value * gain if value.ndim > 1 else value).bfloat16()


def _weight(name: str, shape: Iterable[int], device: torch.device) -> torch.Tensor:
    """fp32; a weight keeps the variance of its input, a norm's weight is near 1."""
    value = _normal(name, shape, device)
    if value.ndim > 1:
        rows = _normal(f"{name} rows", (len(value), 1), device)
        return value.mul_((ROW_SPREAD * rows).exp_() / math.sqrt(value[0].numel()))
    if name.endswith("bias"):
        return value.mul_(_BIAS_STD)
    return value.mul_(_NORM_STD).add_(1)


def _normal(name: str, shape: Iterable[int], device: torch.device) -> torch.Tensor:
    digest = hashlib.sha256(name.encode()).digest()
    draw = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(tuple(shape), generator=draw, device=device)
