"""Which images of a run a contact sheet shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from trainer_core.config.plan import Backend, MaskKind
from trainer_core.data.indexing import Chosen
from trainer_core.data.report.crops import Fitted, all_crops_of

Each = TypeVar("Each")
FileKey = tuple[str, str]
"""A backend's id, and the path of an image of it."""


class ShownMask(NamedTuple):
    """The mask of an image."""

    file: Path
    kind: MaskKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An image, one of its crops, and its mask where it has one."""

    backend: Backend
    crop: Fitted
    file: Path
    mask: ShownMask | None


def shown_of(
    chosen: Sequence[Chosen], files: Mapping[FileKey, Path], max_px: int, most: int
) -> list[Shown]:
    """At most ``most`` crops, as many of each backend as there are, its images evenly spread.

    An image is shown with all its crops.

    Args:
        chosen: the images that the run uses.
        files: where each image and mask is.
        max_px: the largest area in pixels that the base model takes.
        most: how many in all.
    """
    sizes = [len(each.items) * each.backend.crops_per_image for each in chosen]
    found = []
    for each, share in zip(chosen, _shares(sizes, most), strict=True):
        images = spread(each.items, -(-share // each.backend.crops_per_image))
        crops = chain.from_iterable(all_crops_of(item, each.backend, max_px) for item in images)
        found += [_shown(each, crop, files) for crop in islice(crops, share)]
    return found


def few_of(shown: Sequence[Shown], most: int) -> list[Shown]:
    """Fewer of them, shared among the backends in the same way."""
    of_backend: dict[str, dict[str, list[Shown]]] = {}
    for each in shown:
        images = of_backend.setdefault(each.backend.id, {})
        images.setdefault(each.crop.item.path, []).append(each)
    groups = [list(images.values()) for images in of_backend.values()]
    shares = _shares([sum(map(len, group)) for group in groups], most)
    found: list[Shown] = []
    for group, share in zip(groups, shares, strict=True):
        kept = spread(group, -(-share // max(map(len, group))))
        found += islice(chain.from_iterable(kept), share)
    return found


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
