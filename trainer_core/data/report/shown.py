"""Which images of a run a contact sheet shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from trainer_core.config.plan import Backend, MaskKind
from trainer_core.data.indexing import Chosen
from trainer_core.data.report.crops import Fitted, fitted

Each = TypeVar("Each")
FileKey = tuple[str, str]
"""A backend's id, and the path of an image of it."""


class ShownMask(NamedTuple):
    """The mask of an image."""

    file: Path
    kind: MaskKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An image, its crop, and its mask where it has one."""

    backend: Backend
    crop: Fitted
    file: Path
    mask: ShownMask | None


def shown_of(
    chosen: Sequence[Chosen], files: Mapping[FileKey, Path], max_px: int, most: int
) -> list[Shown]:
    """At most ``most`` images, as many of each backend as there are, each backend's evenly spread.

    Args:
        chosen: the images that the run uses.
        files: where each image and mask is.
        max_px: the largest area in pixels that the base model takes.
        most: how many in all.
    """
    shares = _shares([len(each.items) for each in chosen], most)
    return [
        _shown(each, crop, files)
        for each, share in zip(chosen, shares, strict=True)
        for crop in fitted(spread(each.items, share), each.backend, max_px)
    ]


def few_of(shown: Sequence[Shown], most: int) -> list[Shown]:
    """Fewer of them, shared among the backends in the same way."""
    of_backend: dict[str, list[Shown]] = {}
    for each in shown:
        of_backend.setdefault(each.backend.id, []).append(each)
    groups = list(of_backend.values())
    shares = _shares([len(group) for group in groups], most)
    return [
        each for group, share in zip(groups, shares, strict=True) for each in spread(group, share)
    ]


def _shown(chosen: Chosen, crop: Fitted, files: Mapping[FileKey, Path]) -> Shown:
    mask = None
    if chosen.masks is not None:
        found = chosen.masks.of(crop.item)
        kind = chosen.masks.backend.mask_kind or "mask"
        mask = ShownMask(file=files[found.backend, found.path], kind=kind)
    return Shown(
        backend=chosen.backend,
        crop=crop,
        file=files[chosen.backend.id, crop.item.path],
        mask=mask,
    )


def spread(names: Sequence[Each], most: int) -> Sequence[Each]:
    """All of them, or ``most``, evenly spread."""
    if len(names) <= most:
        return names
    return [names[i * len(names) // most] for i in range(most)]


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many of each group: equal shares, and what a small group leaves goes to the others."""
    shares = [0] * len(sizes)
    left = most
    for done, group in enumerate(sorted(range(len(sizes)), key=lambda group: sizes[group])):
        shares[group] = min(sizes[group], left // (len(sizes) - done))
        left -= shares[group]
    return shares
