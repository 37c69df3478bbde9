"""One kernel at one true shape: its inputs, the function it must equal, the bytes it moves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Inputs = tuple[Any, ...]
"""Tensors, None, or what the kernel takes else. Its gradients are those of the tensors that require
one."""


class Quantized(NamedTuple):
    """Two outputs of a kernel that stand for one: rows in 8 bits and their scales."""

    rows8: torch.Tensor
    scale: torch.Tensor


class Draw:
    """Draws inputs of a standard normal distribution, the same in each run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def __call__(
        self,
        *shape: int,
        dtype: torch.dtype = torch.bfloat16,
        factor: float = 1.0,
        has_gradient: bool = False,
    ) -> torch.Tensor:
        """A tensor of ``shape``, multiplied by ``factor``."""
        value = torch.randn(*shape, generator=self._generator, device=self.device) * factor
        return value.to(dtype).requires_grad_(has_gradient)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What the tests compare and the benchmark times."""

    name: str
    shape: str
    make: Callable[[Draw], Inputs]
    kernel: Callable[..., Sequence[torch.Tensor | Quantized]]
    plain: Callable[..., Sequence[torch.Tensor]]
    """The same outputs from inputs in float64, in PyTorch; no output in 8 bits."""
    forward_bytes: int
    """Read and written at least, with every tensor touched once."""
    backward_bytes: int = 0
    max_error: float = 0.004
    """Bound of the relative L2 error of each output and gradient. Rounding to bf16 gives 0.0017."""
    capability: int = 80
    """Compute capability of the oldest cards that run it, without the point."""

    def __str__(self) -> str:
        return f"{self.name} {self.shape}"


MAX_ERROR_E4M3 = 0.03
"""The same for an output in e4m3, whose rounding gives 0.026."""
MAX_STEPS_INT8 = 0.4
"""The same for int8, in steps of 1 for each element. Rounding gives 0.29, cutting 0.58."""
NAMES = {torch.float8_e4m3fn: "e4m3", torch.int8: "int8"}
E4M3_FROM = 89
"""Cards with 8-bit floats."""


def errors(case: Case, draw: Draw) -> Iterator[tuple[str, float, float]]:
    """Name, relative L2 error and bound of each output and gradient of ``case``."""
    inputs = case.make(draw)
    wide = tuple(_in_float64(each) for each in inputs)
    outputs, right = case.kernel(*inputs), case.plain(*wide)
    for i, (output, wanted) in enumerate(zip(outputs, right, strict=True)):
        if isinstance(output, Quantized):
            yield f"output {i}", *_rounding(output, wanted)
        else:
            yield f"output {i}", _distance(output, wanted), case.max_error
    steered = [i for i, output in enumerate(outputs) if _has_gradient(output)]
    gradients = [draw(*outputs[i].shape, dtype=outputs[i].dtype) for i in steered]
    found = _gradients(inputs, [outputs[i] for i in steered], gradients)
    wanted = _gradients(wide, [right[i] for i in steered], [each.double() for each in gradients])
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        yield f"gradient {i}", _distance(one, other), case.max_error


def _rounding(output: Quantized, wanted: torch.Tensor) -> tuple[float, float]:
    """Error and bound of rows in 8 bits."""
    scale_N1 = output.scale.double()[:, None]
    value = output.rows8.double()
    wanted = wanted.reshape_as(value)
    if output.rows8.dtype is torch.int8:
        return float((value - wanted / scale_N1).square().mean().sqrt()), MAX_STEPS_INT8
    return _distance(value * scale_N1, wanted), MAX_ERROR_E4M3


def capability_of(dtype: torch.dtype) -> int:
    """Of the oldest cards that round to this type of 8 bits."""
    return 80 if dtype is torch.int8 else E4M3_FROM


def is_for_this_card(capability: int) -> bool:
    """Whether the current card has at least this capability, without the point."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor >= capability


def launches(
    case: Case, draw: Draw
) -> tuple[Callable[[], Sequence[torch.Tensor]], Callable[[], Sequence[torch.Tensor]]]:
    """Two functions to time or to capture: the forward alone, and the forward with the backward.

    They return all that the kernels write.
    """
    inputs = case.make(draw)
    gradients = [
        draw(*output.shape, dtype=output.dtype)
        for output in case.kernel(*inputs)
        if _has_gradient(output)
    ]

    def forward() -> list[torch.Tensor]:
        return _flat(case.kernel(*inputs))

    def both() -> list[torch.Tensor]:
        outputs = case.kernel(*inputs)
        steered = [output for output in outputs if _has_gradient(output)]
        found = _gradients(inputs, steered, gradients)
        # Detached, because a graph that lives on binds the inputs to the stream that it ran on.
        return [*(each.detach() for each in _flat(outputs)), *found]

    return forward, both


def _flat(outputs: Sequence[torch.Tensor | Quantized]) -> list[torch.Tensor]:
    return [
        tensor
        for output in outputs
        for tensor in (output if isinstance(output, Quantized) else (output,))
    ]


def _has_gradient(output: torch.Tensor | Quantized) -> bool:
    return isinstance(output, torch.Tensor) and output.requires_grad


def _gradients(
    inputs: Inputs, outputs: Sequence[Any], gradients: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    trained = [each for each in inputs if isinstance(each, torch.Tensor) and each.requires_grad]
    return torch.autograd.grad(outputs, trained, gradients) if trained else ()


def _in_float64(each: Any) -> Any:
    if not isinstance(each, torch.Tensor) or not each.is_floating_point():
        return each
    return each.detach().double().requires_grad_(each.requires_grad)


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())
