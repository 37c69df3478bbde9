"""Frozen linear layers whose weights are held in 8 bits, with one scale for each output row."""

from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from trainer_core.kernels.few_rows import MOST_ROWS, few_rows_product
from trainer_core.kernels.rows8 import weight_to_e4m3
from trainer_core.precision.base_weights import linears_of

HeldForm = Literal["e4m3", "int8", "plain"]
"""``e4m3``: 8-bit floats, which tensor cores multiply. ``int8``: 8-bit integers, which keep more
bits of a weight and are multiplied after conversion. ``plain``: the compute type."""

_INT8_MAX: Final = 127.0
_SMALLEST_SCALE: Final = 1e-12


def held_form(path: str) -> HeldForm:
    """How a run with 8-bit products holds the linear layer at ``path`` of HiDream's transformer.

    The linears of attention and feed-forward make up 84 % of the weights and nearly all of the
    arithmetic: e4m3. The modulation and the captions' projections are multiplied once a step: int8.
    The first and last layers are small and see the least averaging: plain.
    """
    if "adaLN_modulation" in path or path.startswith("caption_projection."):
        return "plain" if path.startswith("final_layer.") else "int8"
    if ".attn1." in path or ".ff_i." in path or ".ff_t." in path:
        return "e4m3"
    return "plain"


def weight_to_int8(weight_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a weight as int8 [N, K], and their scales [N], fp32: row = scale · integers."""
    wide = weight_NK.float()
    scale_N = (wide.abs().amax(dim=1) / _INT8_MAX).clamp(min=_SMALLEST_SCALE)
    return (wide / scale_N[:, None]).round().to(torch.int8), scale_N


class Linear8(nn.Module):
    """A frozen linear layer. Calling it converts the weight to the input's type and multiplies.

    It is called for modulation and caption projections, and for all linears by diffusers' own
    forward, which draws samples. The fused blocks multiply the rows of their linears themselves.
    """

    rows8: torch.Tensor
    """[out, in], e4m3 or int8."""
    scale: torch.Tensor
    """[out], fp32: weight = scale · rows8."""
    bias: torch.Tensor | None

    def __init__(self, rows8: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("rows8", rows8)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.out_features, self.in_features = rows8.shape

    @property
    def weight(self) -> torch.Tensor:
        """The weight in fp32, made anew at each call."""
        return self.rows8.float() * self.scale[:, None]

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """[..., in] → [..., out] in the input's type, with a gradient to the input."""
        if input_.numel() <= MOST_ROWS * self.in_features and not input_.requires_grad:
            rows = input_.reshape(-1, self.in_features)
            output = few_rows_product(rows, self.rows8, self.scale)
            output = output.view(*input_.shape[:-1], self.out_features)
            return output if self.bias is None else output + self.bias
        # An 8-bit row is exact in bf16, its scale is not: the scale multiplies the product.
        output = functional.linear(input_, self.rows8.to(input_.dtype))
        output = (output * self.scale).to(input_.dtype)
        return output if self.bias is None else output + self.bias


def linear8_of(linear: nn.Linear, form: Literal["e4m3", "int8"], device: torch.device) -> Linear8:
    """The same layer on ``device``, with its weight in 8 bits."""
    weight = linear.weight.detach().to(device)
    rows8, scale = weight_to_e4m3(weight) if form == "e4m3" else weight_to_int8(weight)
    return Linear8(rows8, scale, None if linear.bias is None else linear.bias.to(device))


def hold_in_8bit(transformer: nn.Module, device: torch.device) -> int:
    """Replace the linears of HiDream's transformer by ``Linear8`` as ``held_form`` says.

    The layers are moved to ``device`` one by one and converted there, so a card needs room for the
    8-bit weights only. Returns the number of replaced linears.
    """
    count = 0
    for path, linear in linears_of(transformer):
        form = held_form(path)
        if form == "plain":
            continue
        parent, _, name = path.rpartition(".")
        layer = linear8_of(linear, form, device).train(linear.training)
        transformer.get_submodule(parent).register_module(name, layer)
        count += 1
    transformer.to(device)
    return count
