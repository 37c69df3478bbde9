"""Draws the picture of a scene, with a little of chance in place, size and colours. No torch.

Letters: h × w pixels of a picture, s × s points in each pixel.
"""

import math
import random
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer_core.painter.grammar import BACKGROUNDS, COLOURS, PLACES, RGB, Scene

Points = npt.NDArray[np.float64]
Inside = npt.NDArray[np.bool_]

SIZES_PX: Final = (
    (64, 64),
    (128, 64),
    (64, 128),
    (128, 128),
    (256, 128),
    (128, 256),
)
"""Width and height of the pictures: three aspect ratios, two sizes."""
DARK: Final = 0.62
"""The second tone of a texture is the colour times this."""

_POINTS: Final = 3
_RADIUS: Final = {"small": 0.24, "large": 0.32}
"""Half the width of a shape, as a share of the picture's shorter side."""
_APART: Final = 0.29
"""From the middle to the other places, as a share of the side."""
_MARGIN_PX: Final = 3
_LEAST_PERIOD_PX: Final = 7.0


def draw(scene: Scene, size_px: tuple[int, int], seed: int) -> Image.Image:
    """The picture of a scene, RGB. The same arguments give the same picture."""
    width, height = size_px
    chance = random.Random(f"{seed} {width}x{height} {scene}")  # noqa: S311 - no secret
    radius = _RADIUS[scene.size] * min(width, height) * _between(chance, 0.92, 1.08)
    column, row = PLACES[scene.place]
    x = _centre(width, column, radius, chance)
    y = _centre(height, row, radius, chance)
    colour = np.array(_near(COLOURS[scene.colour], chance))
    background = np.array(_near(BACKGROUNDS[scene.background], chance))
    pixels = np.broadcast_to(background, (height, width, 3)).copy()
    # Only the square around the shape is computed point by point.
    left, right = math.floor(x - radius) - 1, math.ceil(x + radius) + 1
    top, bottom = math.floor(y - radius) - 1, math.ceil(y + radius) + 1
    step = 1 / _POINTS
    rows, columns = np.mgrid[top + step / 2 : bottom : step, left + step / 2 : right : step]
    u, v = columns - x, rows - y
    inside = is_inside(scene.shape, u / radius, v / radius)
    dark = inside & _DARK_PARTS[scene.texture](u, v, max(_LEAST_PERIOD_PX, radius / 1.7))
    share = _mean_by_pixel(inside)[..., None]
    dark_share = _mean_by_pixel(dark)[..., None]
    shape = colour * (share - dark_share * (1 - DARK))
    pixels[top:bottom, left:right] = shape + background * (1 - share)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8), "RGB")


def _mean_by_pixel(points: Inside) -> Points:
    """The share of each pixel's points, [h, w]."""
    height, width = points.shape
    blocks = points.reshape(height // _POINTS, _POINTS, width // _POINTS, _POINTS)
    share: Points = blocks.mean(axis=(1, 3))
    return share


def is_inside(shape: str, u: Points, v: Points) -> Inside:
    """Which points are in a shape that fills -1 to 1 in both directions; v grows downwards.

    Raises KeyError for a shape that there is not.
    """
    return np.asarray(_SHAPES[shape](u, v), dtype=bool)


def _in_ring(u: Points, v: Points) -> Inside:
    distance = u * u + v * v
    return (distance <= 1) & (distance >= 0.55**2)


def _in_cross(u: Points, v: Points) -> Inside:
    return (np.minimum(abs(u), abs(v)) <= 0.32) & (np.maximum(abs(u), abs(v)) <= 1)


def _in_heart(u: Points, v: Points) -> Inside:
    x, y = 1.18 * u, 0.16 - 1.15 * v
    return np.asarray((x * x + y * y - 1) ** 3 - x * x * y**3 <= 0)


def _in_arrow(u: Points, v: Points) -> Inside:
    shaft = (abs(v) <= 0.32) & (u >= -1) & (u <= 0.1)
    return np.asarray(shaft | ((u >= 0) & (abs(v) <= 0.9 * (1 - u))))


def _in_star(u: Points, v: Points) -> Inside:
    """Five points: the union of five triangles from the middle to each tip."""
    angle = np.arctan2(u, -v)
    # The angle from the nearest tip, 0 to 36 degrees.
    apart = abs((angle + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    distance = np.hypot(u, v)
    inner = 0.45
    # The line from a tip (1, 0) to the next notch, at 36 degrees.
    notch_x, notch_y = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    x, y = distance * np.cos(apart), distance * np.sin(apart)
    return np.asarray((1 - x) * notch_y >= (1 - notch_x) * y)


_SHAPES: Final[Mapping[str, Callable[[Points, Points], Inside]]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.9,
    "triangle": lambda u, v: (abs(u) <= (v + 0.9) / 1.8) & (abs(v) <= 0.9),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1,
    "cross": _in_cross,
    "ring": _in_ring,
    "star": _in_star,
    "heart": _in_heart,
    "arrow": _in_arrow,
}


def _is_dotted(u: Points, v: Points, period: float) -> Inside:
    x, y = u % period - period / 2, v % period - period / 2
    return np.asarray(np.hypot(x, y) <= 0.3 * period)


_DARK_PARTS: Final[Mapping[str, Callable[[Points, Points, float], Inside]]] = {
    "plain": lambda u, _v, _period: np.zeros(u.shape, dtype=bool),
    "striped": lambda _u, v, period: np.floor(2 * v / period) % 2 == 0,
    "checkered": lambda u, v, period: (
        (np.floor(1.5 * u / period) + np.floor(1.5 * v / period)) % 2 == 0
    ),
    "dotted": _is_dotted,
}
"""Texture → which points have the second tone. Distances and the period are in pixels."""


def _centre(side: int, where: int, radius: float, chance: random.Random) -> float:
    """The middle of a shape on one axis, so that all of it is in the picture."""
    wanted = side * (0.5 + _APART * where + _between(chance, -0.03, 0.03))
    least = radius + _MARGIN_PX
    return min(max(wanted, least), side - least)


def _near(colour: RGB, chance: random.Random) -> tuple[float, ...]:
    return tuple(level + _between(chance, -8, 8) for level in colour)


def _between(chance: random.Random, low: float, high: float) -> float:
    return low + (high - low) * chance.random()
