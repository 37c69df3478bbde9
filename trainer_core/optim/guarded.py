"""Updates that the device itself leaves out after a step that is not finite.

An update is made of tensor operations only. Learning rate and bias corrections are tensors on the
device, and so is the flag that says whether the step was healthy. Nothing is read by the host.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import torch

from trainer_core.errors import CheckpointError
from trainer_core.optim.parameters import ParameterTensors
from trainer_core.optim.rounding import Rounding
from trainer_core.optim.state import TENSOR

_PIECE_ELEMENTS: Final = 1 << 26
"""256 MiB in fp32. A multiple of the width of vector registers, so that no bit depends on it."""
_BF16_PIECE_ELEMENTS: Final = 1 << 24
"""Less where tensors are in bf16, because all of a piece's are also held in fp32."""


class GuardedOptimizer(Protocol):
    """Updates parameters from their gradients, unless the step was not healthy."""

    @property
    def asks_host(self) -> bool:
        """Whether ``update`` waits for the device, because the host has to read something."""

    def numbers(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """The numbers that ``update`` needs for optimizer step ``step``, counted from 1.

        It has the same length for every step.
        """

    def update(self, numbers: torch.Tensor, is_healthy: torch.Tensor) -> None:
        """Update parameters and state with the leaves' gradients.

        Args:
            numbers: those of this step, fp32, [n], on the parameters' device.
            is_healthy: a boolean, 0-dimensional, on the parameters' device. Where it is False,
                parameters and state keep their bits.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that an update changes, by the keys of ``optim.state``."""

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``state`` returned. Raises CheckpointError where it does not fit."""


@runtime_checkable
class LeafOptimizer(GuardedOptimizer, Protocol):
    """Can also update one leaf after another: ``update`` is ``begin``, all leaves, and ``end``."""

    def begin(self, numbers: torch.Tensor) -> None:
        """Before the first leaf of a step; ``numbers`` as for ``update``."""

    def update_leaves(
        self, leaves: Iterable[int], numbers: torch.Tensor, is_healthy: torch.Tensor
    ) -> None:
        """Update the leaves of these numbers; a leaf without a gradient stays as it is."""

    def end(self, is_healthy: torch.Tensor) -> None:
        """After the last leaf of a step."""


class Guard:
    """Writes new values over old ones where a flag is True, such as after a healthy step.

    On a CPU the host knows the flag without waiting: new values are computed in place, or not at
    all. Elsewhere they are computed, and written where the flag is True. A product with the flag
    would not do, because 0 · NaN is NaN.
    """

    def __init__(self, flag: torch.Tensor) -> None:
        """``flag``: a boolean, 0-dimensional."""
        self.flag: Final = flag
        self._known: bool | None = bool(flag.item()) if host_knows(flag) else None

    @property
    def is_shut(self) -> bool:
        """Whether the host knows that nothing will be written."""
        return self._known is False

    def place(self, old: torch.Tensor) -> torch.Tensor:
        """Where to compute the successor of ``old``: pass it as ``out``, and then to ``write``."""
        return torch.empty_like(old) if self._known is None else old

    def write(self, new: torch.Tensor, old: torch.Tensor) -> None:
        """Write ``new`` over ``old`` where the flag is True."""
        if self._known is None:
            torch.where(self.flag, new, old, out=old)
        elif self._known and new is not old:
            old.copy_(new)


def in_pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Flat views of the same elements of contiguous tensors of one shape, one piece after another.

    A leaf may hold all weights of a model: what an update computes on the way has the size of a
    piece, not several times that of the leaf.
    """
    is_bf16 = any(each.dtype is torch.bfloat16 for each in tensors)
    size = min(_PIECE_ELEMENTS, _BF16_PIECE_ELEMENTS) if is_bf16 else _PIECE_ELEMENTS
    return zip(*(torch.split(each.view(-1), size) for each in tensors), strict=True)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a leaf and of its moments, in fp32."""

    gradient: torch.Tensor
    values: tuple[torch.Tensor, ...]
    """Those of the moments, then of the leaf; copies where they are stored in bf16."""
    stored: tuple[torch.Tensor, ...]
    """Where the successors of the values are written."""
    leaf: int
    start: int
    """Number of the piece's first element."""

    def place(self, number: int, guard: Guard) -> torch.Tensor:
        """Where to compute the successor of value ``number``, as ``out`` of an operation."""
        value = self.values[number]
        return guard.place(value) if value is self.stored[number] else value

    def write(self, guard: Guard, rounding: Rounding | None, *new: torch.Tensor) -> None:
        """Write the successors of all values where the guard's flag is True."""
        for field, (each, old) in enumerate(zip(new, self.stored, strict=True)):
            if rounding is None:
                guard.write(each, old)
            else:
                place = {"leaf": self.leaf, "field": field, "start": self.start}
                rounding.write(each, old, guard.flag, **place)


def updated_pieces(
    parameters: ParameterTensors,
    moments: Iterable[Sequence[torch.Tensor]],
    leaves: Iterable[int],
) -> Iterator[Piece]:
    """The pieces of these leaves, without those that have no gradient."""
    each_moment = tuple(moments)
    for number in leaves:
        leaf = parameters.leaves[number]
        if leaf.grad is None:
            continue
        start = 0
        own = (each[number] for each in each_moment)
        for gradient, *stored in in_pieces(leaf.grad, *own, leaf.detach()):
            values = tuple(each.float() for each in stored)
            yield Piece(gradient.float(), values, tuple(stored), number, start)
            start += gradient.numel()


def host_knows(flag: torch.Tensor) -> bool:
    """Whether the host can read a flag without waiting for a device."""
    return flag.device.type == "cpu"


Moments = Mapping[str, Sequence[torch.Tensor]]
"""Field of the optimizer's state → tensors shaped like the leaves."""


def moment_tensors(parameters: ParameterTensors, moments: Moments) -> dict[str, torch.Tensor]:
    """The moments of each parameter, by the keys of ``optim.state``."""
    return {
        f"{TENSOR}{name}/{field}": part
        for field, tensors in moments.items()
        for name, part in parameters.for_checkpoint(tensors).items()
    }


def load_moments(
    parameters: ParameterTensors, moments: Moments, saved: Mapping[str, torch.Tensor]
) -> None:
    """Copy saved moments into ``moments``.

    Raises CheckpointError where one is of no trained parameter, is missing, or has another shape or
    type.
    """
    for key in saved:
        name = key.removeprefix(TENSOR).rpartition("/")[0]
        if key.startswith(TENSOR) and name not in parameters.named:
            raise CheckpointError(f"optimizer state of {name}, which is not trained here")
    for field, tensors in moments.items():
        for name, moment in parameters.by_name(tensors).items():
            value = saved.get(f"{TENSOR}{name}/{field}")
            if value is None:
                raise CheckpointError(f"no optimizer state {field} of {name}")
            if value.shape != moment.shape or value.dtype != moment.dtype:
                raise CheckpointError(
                    f"{field} of {name} is {tuple(value.shape)} {value.dtype} in the checkpoint "
                    f"and {tuple(moment.shape)} {moment.dtype} here"
                )
            moment.copy_(value)
