"""Draws the pictures that the painting model is trained on, and writes them as a data set."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer_core.painter.drawing import draw
from trainer_core.painter.grammar import Scene, all_scenes, caption_of, draw_scenes, is_held_out
from trainer_core.painter.scales import Scale

Drawing = tuple[Scene, tuple[int, int], int]
"""Scene, size in pixels and seed of a picture."""
_CHUNK: Final = 50


def drawings(count: int, seed: int, scale: Scale, *, held_out: bool) -> list[Drawing]:
    """What to draw: the scenes of a scale, each once before one comes again, in its sizes in turn.

    ``held_out``: as in ``draw_scenes``.
    """
    scenes = scenes_of(scale, seed, held_out=held_out)
    return list(zip(cycle(scenes), cycle(scale.sizes_px), range(count), strict=False))


def scenes_of(scale: Scale, seed: int, *, held_out: bool) -> list[Scene]:
    """All scenes of a scale, in an order drawn by ``seed``."""
    count = sum(scale.has(scene) and is_held_out(scene) == held_out for scene in all_scenes())
    return draw_scenes(count, seed, held_out=held_out, has=scale.has)


def write_dataset(
    folder: Path, wanted: Sequence[Drawing], processes: int
) -> list[npt.NDArray[np.uint8]]:
    """Draw each picture and write it beside its caption, in a sub-folder for each shorter side.

    Returns the pictures' levels, [H, W, 3] each, in order.
    """
    for short_side in {min(size) for _, size, _ in wanted}:
        (folder / f"{short_side}px").mkdir(parents=True)
    work = [(folder, number, each) for number, each in enumerate(wanted)]
    if processes <= 1:
        return [_write(each) for each in work]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_write, work, chunksize=_CHUNK))


def _write(work: tuple[Path, int, Drawing]) -> npt.NDArray[np.uint8]:
    folder, number, (scene, size, seed) = work
    picture = draw(scene, size, seed)
    file = folder / f"{min(size)}px" / f"{number:05d}.png"
    picture.save(file, compress_level=1)
    file.with_suffix(".txt").write_text(caption_of(scene) + "\n", encoding="utf-8")
    return np.asarray(picture)
