"""Finds the shape and the colours in a picture, from its pixels alone. Nothing here has learned.

1. The background is the median colour of the picture's edge.
2. What differs from it is the shape. Stray pixels are dropped.
3. Each pixel of the shape votes for the nearest colour, in a tone from the full to the dark one.
4. The shape ends where its pixels are nearer to the background than to that colour. So a blurred
   shape is no larger than a sharp one.
5. Its outline, scaled to a square, is compared with those of each known shape: the sharp one, and
   two with rounder corners, because a blurred star is no diamond.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from trainer_core.painter.drawing import DARK, is_inside
from trainer_core.painter.grammar import BACKGROUNDS, COLOURS, NEW_SHAPES, RGB, SHAPES, Scene

Pixels = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_DIFFERS: Final = 42.0
"""Distance in RGB from which on a pixel is not background."""
_NEAR: Final = 60.0
"""Distance in RGB up to which a pixel has a colour."""
_LEAST_SHARE: Final = 0.6
"""Of a shape's pixels that have to agree on its colour."""
_LEAST_OVERLAP: Final = 0.73
"""Intersection over union with the best shape."""
_ROUNDED: Final = (0.0, 0.1, 0.2)
"""Standard deviations of the blurs that round the known outlines, as shares of half the width."""
_LEAST_PIXELS: Final = 60
_MOST_OF_EDGE: Final = 0.1
"""Share of the picture's edge that a shape may touch."""
_GRID: Final = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a picture shows; None where nothing fits well enough."""

    colour: str | None
    shape: str | None
    background: str | None
    centre: tuple[float, float] | None
    """Of the shape, as shares of width and height."""

    def shows(self, scene: Scene) -> bool:
        """Whether the picture has the shape of a scene in its colour."""
        return (self.colour, self.shape) == (scene.colour, scene.shape)


def recognise(picture: Image.Image) -> Found:
    """What a picture of one shape shows."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    behind = np.median(_edge_of(pixels), axis=0)
    mask = _without_specks(_distances(pixels, behind) > _DIFFERS)
    background = _nearest(behind, BACKGROUNDS)
    if mask.sum() < _LEAST_PIXELS or _edge_of(mask).mean() > _MOST_OF_EDGE:
        return Found(colour=None, shape=None, background=background, centre=None)
    colour = _colour_of(pixels, mask)
    if colour is not None:
        nearer = _distances_to_tones(pixels, colour) < _distances(pixels, behind)
        if (nearer := _without_specks(nearer)).sum() >= _LEAST_PIXELS:
            mask = nearer
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return Found(
        colour=colour,
        shape=_shape_of(mask),
        background=background,
        centre=(
            float(columns.min() + columns.max() + 1) / 2 / width,
            float(rows.min() + rows.max() + 1) / 2 / height,
        ),
    )


def _edge_of(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The outermost row and column on each side, one after another."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _colour_of(pixels: Pixels, mask: Mask) -> str | None:
    inner = _eroded(mask)
    chosen = pixels[inner if inner.sum() >= _LEAST_PIXELS else mask]
    names = list(COLOURS)
    apart = np.stack([_distances_to_tones(chosen, name) for name in names], axis=-1)
    votes = np.bincount(apart.argmin(axis=1)[apart.min(axis=1) <= _NEAR], minlength=len(names))
    best = int(votes.argmax())
    return names[best] if votes[best] >= _LEAST_SHARE * len(chosen) else None


def _shape_of(mask: Mask) -> str | None:
    cut = _cut(mask)
    height, width = cut.shape
    if not 0.75 <= width / height <= 1.35:
        return None
    grid = _scaled(cut)
    overlaps = [(_overlap(grid, outline), name) for name, outline in _outlines()]
    overlap, best = max(overlaps)
    return best if overlap >= _LEAST_OVERLAP else None


def _cut(mask: Mask) -> Mask:
    """The smallest part of a mask with all that is set."""
    rows, columns = np.nonzero(mask)
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _scaled(mask: Mask) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BILINEAR)) > 127


def _overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def _outline(shape: str, rounded: float) -> Mask:
    """A shape's points on the grid, its corners rounded by a blur."""
    points = 4 * _GRID  # of half the shape's width; a margin of another half gives the blur room
    fine = (np.arange(3 * points) + 0.5) / points - 1.5
    image = Image.fromarray(is_inside(shape, *np.meshgrid(fine, fine)).astype(np.uint8) * 255)
    blurred = image.filter(ImageFilter.GaussianBlur(rounded * points))
    return _scaled(_cut(np.asarray(blurred) > 127))


@cache
def _outlines() -> list[tuple[str, Mask]]:
    """Each known shape, sharp and rounded."""
    shapes = (*SHAPES, *NEW_SHAPES)
    return [(shape, _outline(shape, rounded)) for shape in shapes for rounded in _ROUNDED]


def _distances(pixels: Pixels, colour: Pixels | RGB) -> Pixels:
    distances: Pixels = np.linalg.norm(pixels - np.asarray(colour), axis=-1)
    return distances


def _distances_to_tones(pixels: Pixels, colour: str) -> Pixels:
    """To the nearest tone of a colour, of all from the dark to the full one: a blur mixes them."""
    full = np.array(COLOURS[colour], dtype=np.float64)
    tones = (pixels @ full / (full @ full)).clip(DARK, 1)
    distances: Pixels = np.linalg.norm(pixels - tones[..., None] * full, axis=-1)
    return distances


def _nearest(colour: Pixels, of: Mapping[str, RGB]) -> str | None:
    apart = {name: float(_distances(colour, value)) for name, value in of.items()}
    best = min(apart, key=lambda name: apart[name])
    return best if apart[best] <= _NEAR else None


def _neighbours(mask: Mask) -> Sequence[Mask]:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]


def _without_specks(mask: Mask) -> Mask:
    """Only pixels that at least three of their eight neighbours agree with."""
    return np.asarray(np.sum(_neighbours(mask), axis=0) >= 4)


def _eroded(mask: Mask) -> Mask:
    return np.asarray(np.sum(_neighbours(mask), axis=0) == 9)
