"""Frozen base weights in 8 bits."""

import threading
from collections.abc import Callable
from dataclasses import replace

import torch
from optimum.quanto import QLinear, freeze, qint8, quantize
from optimum.quanto.nn import quantize_module
from torch import nn

from trainer_core.config.plan import Quantization
from trainer_core.precision.base_weights import Target, linears_of, source_targets


def quantize_frozen(module: nn.Module, scheme: Quantization) -> tuple[str, ...]:
    """Quantise the linear layers of a model by ``scheme``, and freeze the model.

    ``int8-quanto`` quantises every ``nn.Linear`` to int8, with one scale for each output channel.
    In HiDream these are attention, feed-forwards, shared and routed experts, modulation, embedders,
    caption projections and the last layer. Norms and the experts' gates are not linear layers and
    keep their type, and so do activations.

    It runs on the device of the weights. Call it before adapters are attached, because quanto
    replaces modules. It is used for the text encoders, and for a transformer that is changed
    between reading and quantising; ``quantizing_targets`` serves any other.

    Returns:
        The paths of the quantised linears; empty for ``no_change``.
    """
    if scheme == "int8-quanto":
        quantize(module, weights=qint8)
        freeze(module)
    # After freeze, which makes new parameters that ask for gradients.
    module.requires_grad_(False)
    return quantized_paths(module)


def quantizing_targets(model: nn.Module, device: torch.device) -> dict[str, Target]:
    """Targets for published weights: each linear is quantised to int8 as its weight arrives.

    The result equals that of ``quantize_frozen``, and no more than a few weights are whole at a
    time.

    Args:
        model: in its compute type; the weights of its linears are on the meta device, all other
            tensors on ``device``.
        device: of the quantised weights. They are quantised where the values arrive.
    """
    targets = source_targets(model)
    # Quanto parses Python source whenever it makes or moves a weight, and two threads of
    # Python 3.11 cannot parse at once.
    one_at_a_time = threading.Lock()
    for path, linear in linears_of(model):
        weight = targets[f"{path}.weight"]
        put = _quantizing(model, path, linear, device, one_at_a_time)
        targets[f"{path}.weight"] = replace(weight, put=put, place=None)
    return targets


def quantized_paths(module: nn.Module) -> tuple[str, ...]:
    """Paths of the linears whose weights are quantised."""
    return tuple(name for name, part in module.named_modules() if isinstance(part, QLinear))


def _quantizing(
    model: nn.Module,
    path: str,
    linear: nn.Linear,
    device: torch.device,
    one_at_a_time: threading.Lock,
) -> Callable[[torch.Tensor], None]:
    dtype, bias = linear.weight.dtype, linear.bias

    def put(weight: torch.Tensor) -> None:
        # The bias stays as it is: on its device, where its own value arrives.
        linear.register_parameter("bias", None)
        linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        with one_at_a_time:
            quantized = quantize_module(linear, weights=qint8)
            quantized.freeze()
            quantized.to(device).bias = bias
            quantized.requires_grad_(False)
        linear.register_parameter("weight", None)  # this function lives as long as the targets
        quantized.name = path
        model.set_submodule(path, quantized)

    return put
