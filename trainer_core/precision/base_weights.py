"""Fills a model with stored weights, in the form in which it computes them.

A model is built on the meta device, in its compute type and with its linears in the form in which
they are held. ``allocate`` gives it memory on the device, ``fill`` reads them into it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from trainer_core.errors import BaseModelError
from trainer_core.weights.headers import StoredTensor
from trainer_core.weights.transfer import Read, read_tensors

_CAST_FROM: Final = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_NAMES_SHOWN: Final = 3
WEIGHTS: Final = ("weight", "rows8", "scale")
"""The tensors of a linear, in either form, but for its bias."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a model expects under the name of a stored tensor."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    """The types in which it may be stored."""
    put: Callable[[torch.Tensor], object]
    """Uses up the value before it returns. Several threads call it at once, each for another
    tensor."""
    place: torch.Tensor | None = None
    """Memory that takes the bytes of a value of its own type; ``put`` is not called then."""


def allocate(
    model: nn.Module,
    device: torch.device,
    *,
    stacks: Sequence[Sequence[str]] = (),
    without: Collection[str] = (),
) -> None:
    """Give the tensors of a model on the meta device memory on ``device``; values are undefined.

    Args:
        model: its tensors already have their types.
        device: any device.
        stacks: paths of linears. Their tensors of one name lie one behind the other in memory, if
            they agree in width and type; ``joined`` then finds them as one matrix.
        without: names of tensors that stay on the meta device.
    """
    left = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name not in without
    }
    for names in _stacked_names(left, stacks):
        parts = [left.pop(name) for name in names]
        rows = [len(part) for part in parts]
        shape = (sum(rows), *parts[0].shape[1:])
        memory = torch.empty(shape, dtype=parts[0].dtype, device=device)
        for name, part in zip(names, torch.split(memory, rows), strict=True):
            # Autograd counts changes of views together; a weight that is trained has its own count.
            _set_tensor(model, name, part.data)
    for name, tensor in left.items():
        _set_tensor(model, name, torch.empty_like(tensor, device=device))


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors with the same trailing sides as one: [N1, ...], [N2, ...], … → [N1 + N2 + …, ...].

    A view where they lie one behind the other in memory, as ``allocate`` places a stack; else a
    copy.
    """
    first = tensors[0]
    next_element = first.storage_offset()
    for each in tensors:
        follows = (
            each.is_contiguous()
            and each.dtype is first.dtype
            and each.shape[1:] == first.shape[1:]
            and each.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            and each.storage_offset() == next_element
        )
        if not follows:
            return torch.cat(list(tensors))
        next_element += each.numel()
    rows = sum(len(each) for each in tensors)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def joined_with_gradient(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """As ``joined``; the gradient of the whole is split among the tensors."""
    whole: torch.Tensor = _Joined.apply(*tensors)  # type: ignore[no-untyped-call]
    return whole


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.rows = [len(each) for each in tensors]
        return joined([each.detach() for each in tensors])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(grad, ctx.rows)


def source_targets(model: nn.Module) -> dict[str, Target]:
    """Targets for weights as they are published, which are cast to the type of the model."""
    return {
        name: Target(shape=tuple(tensor.shape), dtypes=_CAST_FROM, put=tensor.copy_, place=tensor)
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def state_targets(model: nn.Module) -> dict[str, Target]:
    """Targets for the tensors of a model of the same form, type for type."""
    return {
        name: Target(
            shape=tuple(tensor.shape), dtypes=(tensor.dtype,), put=tensor.copy_, place=tensor
        )
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def fill(
    targets: Mapping[str, Target],
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    *,
    source: str,
) -> None:
    """Read every stored tensor to ``device`` and put it into its target.

    Raises BaseModelError, which names ``source`` and the tensor, where one is missing or not
    expected, or has another shape or type; and what ``read_tensors`` raises.
    """
    if missing := sorted(targets.keys() - stored.keys()):
        raise BaseModelError(f"{source} lacks {_listed(missing)}")
    if unexpected := sorted(stored.keys() - targets.keys()):
        raise BaseModelError(f"{source} holds {_listed(unexpected)}, which the model does not have")
    for name, target in targets.items():
        found = stored[name]
        if found.shape != target.shape:
            raise BaseModelError(
                f"{found.file}: {name} has the shape {list(found.shape)}, and the model needs "
                f"{list(target.shape)}"
            )
        if found.dtype not in target.dtypes:
            allowed = ", ".join(str(each) for each in target.dtypes)
            raise BaseModelError(
                f"{found.file}: {name} has the type {found.dtype}, and the model takes {allowed}"
            )
    read_tensors([_read(target, stored[name], device) for name, target in targets.items()], device)


def linears_of(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers of a model with their paths, in the order of its modules."""
    return [(path, part) for path, part in model.named_modules() if isinstance(part, nn.Linear)]


def _read(target: Target, found: StoredTensor, device: torch.device) -> Read:
    place = target.place
    if place is not None and place.dtype is found.dtype and place.device.type == device.type:
        return Read(stored=found, into=place)
    return Read(stored=found, then=target.put)


def _stacked_names(
    tensors: Mapping[str, torch.Tensor], stacks: Sequence[Sequence[str]]
) -> Iterator[list[str]]:
    """Names of tensors that are allocated together."""
    for paths in stacks:
        for own_name in (*WEIGHTS, "bias"):
            names = [f"{path}.{own_name}" for path in paths]
            if not all(name in tensors for name in names):
                continue
            if len({(tensors[name].shape[1:], tensors[name].dtype) for name in names}) == 1:
                yield names


def _set_tensor(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, own_name = name.rpartition(".")
    owner = model.get_submodule(path)
    before = getattr(owner, own_name)
    if isinstance(before, nn.Parameter):
        value = nn.Parameter(value, requires_grad=before.requires_grad)
    setattr(owner, own_name, value)


def _listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    others = len(names) - _NAMES_SHOWN
    return shown if others <= 0 else f"{shown} and {others} more tensors"
