"""Finds the shape and the colours in a picture, from its pixels alone. Nothing here has learned.

1. The background is the median colour of the picture's edge.
2. What differs from it is the shape. Stray pixels are dropped.
3. Each pixel of the shape votes for the nearest colour, in its full or its dark tone.
4. The shape's outline, scaled to a square, is compared with that of each known shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

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
"""Intersection over union with the best shape. Tips of a small star blur into the background."""
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
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return Found(
        colour=_colour_of(pixels, mask),
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
    full = np.array([COLOURS[name] for name in names], dtype=np.float64)
    tones = np.stack([full, full * DARK], axis=1)
    apart = np.linalg.norm(chosen[:, None, None] - tones, axis=-1).min(axis=-1)
    votes = np.bincount(apart.argmin(axis=1)[apart.min(axis=1) <= _NEAR], minlength=len(names))
    best = int(votes.argmax())
    return names[best] if votes[best] >= _LEAST_SHARE * len(chosen) else None


def _shape_of(mask: Mask) -> str | None:
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    if not 0.75 <= (right - left) / (bottom - top) <= 1.35:
        return None
    cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    grid = np.asarray(cut.resize((_GRID, _GRID), Image.Resampling.BILINEAR)) > 127
    overlaps = {name: _overlap(grid, outline) for name, outline in _OUTLINES.items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= _LEAST_OVERLAP else None


def _overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def _outline(shape: str) -> Mask:
    """A shape's points, cut to its bounds and scaled to the grid."""
    fine = (np.arange(4 * _GRID) + 0.5) / (2 * _GRID) - 1
    mask = is_inside(shape, *np.meshgrid(fine, fine))
    rows, columns = np.nonzero(mask)
    cut = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    image = Image.fromarray(cut.astype(np.uint8) * 255)
    return np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BILINEAR)) > 127


_OUTLINES: Final = {shape: _outline(shape) for shape in (*SHAPES, *NEW_SHAPES)}


def _distances(pixels: Pixels, colour: Pixels | RGB) -> Pixels:
    distances: Pixels = np.linalg.norm(pixels - np.asarray(colour), axis=-1)
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
