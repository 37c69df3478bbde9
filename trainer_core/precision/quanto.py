"""Frozen base weights in 8 bits."""

from typing import Literal

from optimum.quanto import QLinear, freeze, qint8, quantize
from torch import nn

Scheme = Literal["no_change", "int8-quanto"]


def quantize_frozen(module: nn.Module, scheme: Scheme) -> tuple[str, ...]:
    """Freeze a model, its linears held as int8 with one scale an output channel.

    Every `nn.Linear` is quantised, without exception: in HiDream attention, feed-forwards, shared
    and routed experts, modulation, embedders, caption projections and the last layer. Not
    quantised, because they are no linears: norms and the experts' gates (a bare parameter).
    Activations keep their type. It works where the weights are: before the model is moved to its
    device as well as after. Call it before adapters are attached: quanto replaces modules. It
    serves the transformer and each text encoder.

    Returns:
        The paths of the quantised linears; empty for ``no_change``.
    """
    if scheme == "int8-quanto":
        quantize(module, weights=qint8)
        freeze(module)
    # After freeze: it makes new parameters, and they ask for gradients.
    module.requires_grad_(False)
    return quantized_paths(module)


def quantized_paths(module: nn.Module) -> tuple[str, ...]:
    """Paths of the linears with quantised weights."""
    return tuple(name for name, part in module.named_modules() if isinstance(part, QLinear))
