"""Frozen base weights in 8 bits."""

from optimum.quanto import QLinear, freeze, qint8, quantize
from torch import nn

from trainer_core.config.plan import Quantization


def quantize_frozen(module: nn.Module, scheme: Quantization) -> tuple[str, ...]:
    """Quantise the linear layers of a model by ``scheme``, and freeze the model.

    ``int8-quanto`` quantises every ``nn.Linear`` to int8, with one scale for each output channel.
    In HiDream these are attention, feed-forwards, shared and routed experts, modulation, embedders,
    caption projections and the last layer. Norms and the experts' gates are not linear layers and
    keep their type, and so do activations.

    It runs on the device of the weights. Call it before adapters are attached, because quanto
    replaces modules. It is used for the transformer and the text encoders.

    Returns:
        The paths of the quantised linears; empty for ``no_change``.
    """
    if scheme == "int8-quanto":
        quantize(module, weights=qint8)
        freeze(module)
    # After freeze, which makes new parameters that ask for gradients.
    module.requires_grad_(False)
    return quantized_paths(module)


def quantized_paths(module: nn.Module) -> tuple[str, ...]:
    """Paths of the linears whose weights are quantised."""
    return tuple(name for name, part in module.named_modules() if isinstance(part, QLinear))
