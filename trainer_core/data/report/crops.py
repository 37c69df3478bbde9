"""What the crops of a backend cut away, and which images they scale up."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from trainer_core.config.plan import Backend
from trainer_core.data.buckets import Geometry, geometries_of
from trainer_core.data.index import FileItem
from trainer_core.data.report.model import BucketReport

UPSCALED_FROM: Final = 1.01
"""Factor of the edges; less is rounding."""


class Fitted(NamedTuple):
    """An image and its crop."""

    item: FileItem
    geometry: Geometry
    number: int = 0
    """Which of the image's crops it is, counted from 0."""
    num_crops: int = 1
    """How many the image has."""

    @property
    def loss(self) -> float:
        """Share of the image's area that is cut away."""
        geometry = self.geometry
        kept = geometry.width_px * geometry.height_px / (geometry.resize_w * geometry.resize_h)
        return 1 - kept

    @property
    def scale(self) -> float:
        """Factor by which the image's edges are scaled, the larger of the two."""
        geometry, item = self.geometry, self.item
        return max(geometry.resize_w / item.width_px, geometry.resize_h / item.height_px)


def fitted(items: Iterable[FileItem], backend: Backend, max_px: int) -> list[Fitted]:
    """The first crop of each of a backend's images; arguments as of ``all_crops_of``."""
    return [all_crops_of(item, backend, max_px)[0] for item in items]


def all_crops_of(item: FileItem, backend: Backend, max_px: int) -> list[Fitted]:
    """All crops of an image; ``max_px``: the largest area that the base model takes."""
    found = geometries_of(item.width_px, item.height_px, backend, max_px, item.sha256)
    return [Fitted(item, geometry, number, len(found)) for number, geometry in enumerate(found)]


def uses_of(crops: Iterable[Fitted], backend: Backend) -> Counter[tuple[str, int, int]]:
    """As ``length.Uses``; none of images that are held out."""
    each = 1 + backend.repeats if backend.role == "train" else 0
    uses: Counter[tuple[str, int, int]] = Counter()
    for crop in crops:
        uses[backend.id, crop.geometry.width_px, crop.geometry.height_px] += each
    return uses


def buckets_of(crops: Sequence[Fitted], backend: Backend, batch: int) -> tuple[BucketReport, ...]:
    """The buckets of one backend, by size; ``batch``: samples of a micro-batch."""
    of_size: dict[tuple[int, int], list[Fitted]] = defaultdict(list)
    for crop in crops:
        of_size[crop.geometry.width_px, crop.geometry.height_px].append(crop)
    return tuple(
        _bucket(size, of_size[size], backend, batch - len(of_size[size]) * (1 + backend.repeats))
        for size in sorted(of_size)
    )


def _bucket(
    size: tuple[int, int], crops: Sequence[Fitted], backend: Backend, missing: int
) -> BucketReport:
    """``missing``: uses in an epoch that would fill the bucket's only batch; 0 or less: none."""
    number = len(crops)
    cut_most = max(crops, key=lambda crop: crop.loss)
    enlarged = [crop for crop in crops if crop.scale > UPSCALED_FROM]
    largest = max(enlarged, key=lambda crop: crop.scale, default=None)
    trains = backend.role == "train"
    more = -(-missing // number) if trains and missing > 0 else None
    return BucketReport(
        width_px=size[0],
        height_px=size[1],
        images=number,
        crops=sum(crop.num_crops for crop in crops),
        samples_per_epoch=number * (1 + backend.repeats) if trains else 0,
        crop_loss_mean=sum(crop.loss for crop in crops) / number,
        crop_loss_worst=cut_most.loss,
        crop_loss_worst_file=cut_most.item.path,
        upscaled=len(enlarged),
        upscale_mean=sum(crop.scale for crop in enlarged) / len(enlarged) if enlarged else None,
        upscale_worst=largest.scale if largest else None,
        upscale_worst_file=largest.item.path if largest else None,
        repeats_to_fill=None if more is None else backend.repeats + more,
    )
