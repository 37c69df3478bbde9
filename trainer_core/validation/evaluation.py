"""The evaluation loss of a run: on fixed images, each at a fixed grid of noise levels.

The loss is the mean squared error of the velocity, whatever loss and whatever shift the run trains
with. The noise levels are the midpoints of equal parts of [0, 1] in sigma, the share of noise. So
two runs that differ in the shift, the distribution of timesteps, the loss or the seed measure the
same number, and the mean approximates the integral of the loss over sigma. The ends are left out:
at sigma 0 the target has noise that the input does not show, and at 1 nothing is seen of the image.

Images are chosen by what is in them, and their draws are seeded by that and by the number of the
noise level. So they are the same at every measurement, in every run that has the same images at the
same size. A mask weighs the error of its image, with the weights that training gives it; it is
always applied.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import JsonValue

from trainer_core.config.plan import Evaluation
from trainer_core.config.plan.frozen import digest_of
from trainer_core.data.index import Caption, DataIndex, Picture
from trainer_core.data.permutation import draw_seed
from trainer_core.validation.interval import Mean, mean_of

_MOST_ROWS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationImage:
    """An image with its caption."""

    sample: int
    """Position in ``DataIndex.samples``."""
    text: int
    """Position of its first caption in ``DataIndex.entries``."""
    backend: str
    width_px: int
    height_px: int
    key: str
    """SHA-256 of its pixels, its crop and its caption; seeds its draws."""

    def seed(self, what: str, number: int = 0) -> int:
        """Of the draws of posterior or noise; ``number``: of the noise level."""
        return draw_seed(0, f"evaluation {what} {self.key}", 0, number)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRow:
    """One image at one noise level: what a single loss is computed of."""

    image: EvaluationImage
    place: int
    """Of the image in its set, from 0."""
    number: int
    """Of the noise level, from 0."""
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """What every measurement of a run is made on."""

    images: tuple[EvaluationImage, ...]
    """Never empty; in an order that depends on what is in them."""
    sigmas: tuple[float, ...]
    is_held_out: bool
    """Whether the run is never trained on the images."""
    by_backend: bool

    def digest(self) -> str:
        """Of images and noise levels: measurements with the same one may be compared."""
        keys: list[JsonValue] = [image.key for image in self.images]
        return digest_of([keys, [*self.sigmas]])

    def batches(self, most_px: int) -> list[list[EvaluationRow]]:
        """All rows, in batches of one size of images, each of at most ``most_px`` pixels, or one.

        The rows of an image are successive.
        """
        sizes: dict[tuple[int, int], list[EvaluationRow]] = {}
        for place, image in enumerate(self.images):
            sizes.setdefault((image.width_px, image.height_px), []).extend(
                EvaluationRow(image=image, place=place, number=number, sigma=sigma)
                for number, sigma in enumerate(self.sigmas)
            )
        found: list[list[EvaluationRow]] = []
        for (width_px, height_px), rows in sorted(sizes.items()):
            count = min(max(1, most_px // (width_px * height_px)), _MOST_ROWS)
            found += [rows[first : first + count] for first in range(0, len(rows), count)]
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationLoss:
    """One measurement. Its intervals take the means of the images as independent values."""

    total: Mean
    by_sigma: tuple[tuple[float, Mean], ...]
    """Over the images, at each sigma."""
    by_backend: tuple[tuple[str, int, Mean], ...]
    """Id, number of its images, and their mean; empty where datasets have no means of their own."""

    def as_json(self) -> dict[str, JsonValue]:
        document: dict[str, JsonValue] = {
            **self.total.as_json(),
            "by_sigma": [{"sigma": sigma, **mean.as_json()} for sigma, mean in self.by_sigma],
        }
        if self.by_backend:
            document["by_backend"] = [
                {"backend": id_, "images": count, **mean.as_json()}
                for id_, count, mean in self.by_backend
            ]
        return document


def sigma_grid(count: int) -> tuple[float, ...]:
    """The midpoints of ``count`` equal parts of [0, 1]."""
    return tuple((2 * number + 1) / (2 * count) for number in range(count))


def evaluation_set(
    plan: Evaluation, index: DataIndex, *, regularisation: Collection[str]
) -> EvaluationSet | None:
    """What is measured; None where no image of the plan's datasets is left.

    Args:
        plan: of its datasets, or without any of those that are trained on, so many images are
            chosen by the digest of what is in them. Equal ones count once.
        index: the data of the run.
        regularisation: ids of the datasets that teach the base's own predictions; without held-out
            images the others are measured, where there are any.
    """
    samples = list(enumerate(index.samples))
    if plan.backends:
        chosen = [number for number, each in samples if each.backend in plan.backends]
    else:
        trained = [(number, each) for number, each in samples if not each.held_out]
        own = [number for number, each in trained if each.backend not in regularisation]
        chosen = own or [number for number, _ in trained]
    groups: dict[str, dict[str, EvaluationImage]] = {}
    for number in chosen:
        image = _image(index, number)
        groups.setdefault(image.backend if plan.by_backend else "", {})[image.key] = image
    images = [
        group[key] for _, group in sorted(groups.items()) for key in sorted(group)[: plan.images]
    ]
    if not images:
        return None
    return EvaluationSet(
        images=tuple(images),
        sigmas=sigma_grid(plan.sigmas),
        is_held_out=bool(plan.backends),
        by_backend=plan.by_backend,
    )


def measure_evaluation(
    measured: EvaluationSet,
    losses: Callable[[Sequence[EvaluationRow]], torch.Tensor],
    *,
    most_px: int,
    rank: int,
    ranks: int,
    add: Callable[[torch.Tensor], torch.Tensor],
    before_batch: Callable[[], None],
    after_counted: Callable[[], None] = lambda: None,
) -> EvaluationLoss:
    """Measure every image at every noise level, without gradients.

    The ranks take turns with the batches, which do not depend on their number. So on a CPU the
    result is the same bit for bit, however many there are. Every rank computes equally often, as
    ranks that share weights have to.

    Args:
        measured: what to measure.
        losses: computes the loss of each row of a batch, [B].
        most_px: of the images of a batch together.
        rank: number of this process, from 0.
        ranks: number of processes.
        add: the elementwise sum of a tensor over the ranks, fp64.
        before_batch: called before each batch; it may raise to end the measurement.
        after_counted: called after each batch but those that a rank computes only because others
            need it to.
    """
    batches = measured.batches(most_px)
    table = torch.zeros(len(measured.images), len(measured.sigmas), dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, len(batches), ranks):
            before_batch()
            is_idle = first + rank >= len(batches)
            batch = batches[first if is_idle else first + rank]
            values = losses(batch).double().cpu()
            if not is_idle:
                for row, value in zip(batch, values, strict=True):
                    table[row.place, row.number] = value
                after_counted()
    return summary(measured, add(table).tolist())


def summary(measured: EvaluationSet, losses: Sequence[Sequence[float]]) -> EvaluationLoss:
    """The means over losses: one row an image, with its loss at each noise level."""
    of_images = [math.fsum(row) / len(row) for row in losses]
    by_backend: dict[str, list[float]] = {}
    for image, mean in zip(measured.images, of_images, strict=True):
        by_backend.setdefault(image.backend, []).append(mean)
    columns = zip(measured.sigmas, zip(*losses, strict=True), strict=True)
    return EvaluationLoss(
        total=mean_of(of_images),
        by_sigma=tuple((sigma, mean_of(column)) for sigma, column in columns),
        by_backend=tuple(
            (id_, len(means), mean_of(means)) for id_, means in sorted(by_backend.items())
        )
        if measured.by_backend
        else (),
    )


def _image(index: DataIndex, number: int) -> EvaluationImage:
    sample = index.samples[number]
    picture, caption = (
        index.entries[position].content for position in (sample.latents, sample.texts[0])
    )
    assert isinstance(picture, Picture)
    assert isinstance(caption, Caption)
    geometry: JsonValue = picture.geometry.model_dump(mode="json")
    return EvaluationImage(
        sample=number,
        text=sample.texts[0],
        backend=sample.backend,
        width_px=sample.width_px,
        height_px=sample.height_px,
        key=digest_of([picture.sha256, geometry, caption.text]),
    )
