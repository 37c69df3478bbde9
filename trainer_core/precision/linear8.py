"""Frozen linear layers whose weights are held in 8 bits, with one scale for each output row."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from trainer_core.config.plan import MatmulKind
from trainer_core.kernels.few_rows import MOST_ROWS, few_rows_product
from trainer_core.kernels.rows8 import weight_to_8_bits
from trainer_core.precision.base_weights import linears_of

HeldForm = Literal["multiplied", "converted", "plain"]
"""``multiplied``: in the 8-bit type of the products. ``converted``: 8-bit integers, which are
converted before each product. ``plain``: the compute type."""
_DTYPES: Final[Mapping[MatmulKind, torch.dtype]] = MappingProxyType(
    {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
)


def dtype8_of(matmul: MatmulKind) -> torch.dtype | None:
    """The type of the rows that products of this kind multiply; None: not in 8 bits."""
    return _DTYPES.get(matmul)


def held_form(path: str) -> HeldForm:
    """How a run with 8-bit products holds the linear layer at ``path`` of HiDream's transformer.

    The linears of attention and feed-forward make up 84 % of the weights and nearly all of the
    arithmetic: multiplied in 8 bits. The modulation and the captions' projections are multiplied
    once a step: converted. The first and last layers are small and see the least averaging: plain.
    """
    if "adaLN_modulation" in path or path.startswith("caption_projection."):
        return "plain" if path.startswith("final_layer.") else "converted"
    if ".attn1." in path or ".ff_i." in path or ".ff_t." in path:
        return "multiplied"
    return "plain"


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


def linear8_of(linear: nn.Linear, dtype8: torch.dtype, device: torch.device) -> Linear8:
    """The same layer on ``device``, with its weight in this 8-bit type."""
    weight = linear.weight.detach().to(device)
    rows8, scale = weight_to_8_bits(weight, dtype=dtype8)
    return Linear8(rows8, scale, None if linear.bias is None else linear.bias.to(device))


def hold_in_8bit(transformer: nn.Module, device: torch.device, dtype8: torch.dtype) -> int:
    """Replace the linears of HiDream's transformer by ``Linear8`` as ``held_form`` says.

    ``dtype8``: of the weights that are multiplied in 8 bits.

    The layers are moved to ``device`` one by one and converted there, so a card needs room for the
    8-bit weights only. Returns the number of replaced linears.
    """
    count = 0
    for path, linear in linears_of(transformer):
        form = held_form(path)
        if form == "plain":
            continue
        parent, _, name = path.rpartition(".")
        held = dtype8 if form == "multiplied" else torch.int8
        layer = linear8_of(linear, held, device).train(linear.training)
        transformer.get_submodule(parent).register_module(name, layer)
        count += 1
    transformer.to(device)
    return count
