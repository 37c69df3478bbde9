"""The scenes that the painting model knows, and their captions. Imports no torch.

A scene has one shape on a plain background. Its caption says everything that is asked of a picture:
``a large striped red circle at the top left on a white background``. There is one caption for each
scene, and ``scene_of`` reads it back.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import astuple, dataclass
from itertools import product
from types import MappingProxyType
from typing import Final

RGB = tuple[int, int, int]

COLOURS: Final[MappingProxyType[str, RGB]] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "orange": (250, 140, 30),
        "yellow": (245, 220, 50),
        "green": (40, 165, 60),
        "cyan": (60, 200, 220),
        "blue": (45, 80, 225),
        "purple": (145, 50, 185),
        "pink": (255, 120, 190),
    }
)
"""Colours of shapes."""
BACKGROUNDS: Final[MappingProxyType[str, RGB]] = MappingProxyType(
    {
        "white": (245, 245, 245),
        "black": (18, 18, 18),
        "grey": (140, 140, 140),
        "brown": (80, 50, 30),
        "beige": (225, 205, 170),
        "lavender": (200, 190, 235),
    }
)
"""Colours of backgrounds. None is near a colour of shapes, nor near its dark tone."""
SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "ring", "star")
NEW_SHAPES: Final = ("heart", "arrow")
"""Shapes that can be drawn and that no scene has: concepts for a fine-tune to add."""
TEXTURES: Final = ("plain", "striped", "dotted", "checkered")
SIZES: Final = ("small", "large")
PLACES: Final[MappingProxyType[str, tuple[int, int]]] = MappingProxyType(
    {
        "top left": (-1, -1),
        "top": (0, -1),
        "top right": (1, -1),
        "left": (-1, 0),
        "centre": (0, 0),
        "right": (1, 0),
        "bottom left": (-1, 1),
        "bottom": (0, 1),
        "bottom right": (1, 1),
    }
)
"""Name of a place → its column and row, each -1, 0 or 1."""
_HELD_OUT_OF: Final = 8


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption says, in its order."""

    size: str
    texture: str
    colour: str
    shape: str
    place: str
    background: str


def caption_of(scene: Scene) -> str:
    """The caption of a scene."""
    return (
        f"a {scene.size} {scene.texture} {scene.colour} {scene.shape} "
        f"at the {scene.place} on a {scene.background} background"
    )


def scene_of(caption: str) -> Scene:
    """The scene of a caption; raises ValueError where it is not one of this grammar."""
    scene = _SCENES.get(caption)
    if scene is None:
        raise ValueError(f"{caption!r} is not a caption of the painting model's grammar")
    return scene


def all_scenes() -> tuple[Scene, ...]:
    """Every scene, always in the same order."""
    return tuple(_SCENES.values())


def is_held_out(scene: Scene) -> bool:
    """Whether no picture of this scene is trained on: one scene in eight, by its caption."""
    return hashlib.sha256(caption_of(scene).encode()).digest()[0] % _HELD_OUT_OF == 0


def draw_scenes(
    count: int, seed: int, *, held_out: bool, has: Callable[[Scene], bool] = lambda _: True
) -> list[Scene]:
    """Different scenes, drawn at random.

    Args:
        count: how many.
        seed: of the draw; the same seed gives the same scenes.
        held_out: scenes that no picture is trained on; False: those that may be.
        has: leaves out the scenes that it is false for.

    Raises ValueError where there are fewer scenes.
    """
    of = [scene for scene in all_scenes() if is_held_out(scene) == held_out and has(scene)]
    # Python promises the same numbers in later versions for random() only.
    draw = random.Random(seed)  # noqa: S311 - no secret
    of.sort(key=lambda _: draw.random())
    if count > len(of):
        raise ValueError(f"the grammar has {len(of)} such scenes, not {count}")
    return of[:count]


def words() -> tuple[str, ...]:
    """Every word of the grammar and of the new shapes, in alphabetical order."""
    found = {word for scene in all_scenes() for text in astuple(scene) for word in text.split()}
    return tuple(sorted(found | {"a", "at", "the", "on", "background"} | set(NEW_SHAPES)))


_SCENES: Final = MappingProxyType(
    {
        caption_of(scene): scene
        for scene in (
            Scene(*parts)
            for parts in product(SIZES, TEXTURES, COLOURS, SHAPES, PLACES, BACKGROUNDS)
        )
    }
)
