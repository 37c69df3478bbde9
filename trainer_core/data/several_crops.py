"""Tells what several crops of an image cost, and where a run has more of them than it uses."""

import math
from collections.abc import Sequence
from typing import Final

from trainer_core.config.plan import Backend, Identity
from trainer_core.data.buckets import geometries_of
from trainer_core.data.index import FileItem
from trainer_core.data.timeline import Timeline

_LATENTS_BYTES_A_PX: Final = 2
"""Mean and standard deviation in fp32, of 16 channels in cells of 8 by 8 pixels."""


def crop_cost_warnings(
    used: Sequence[tuple[Backend, Sequence[FileItem]]], max_px: int
) -> list[str]:
    """How much is cached of images with several crops.

    Args:
        used: backends, and their images that the run uses.
        max_px: the largest area in pixels that the base model takes.
    """
    warnings = []
    for backend, items in used:
        if backend.crops_per_image == 1:
            continue
        number, area_px = 0, 0
        for item in items:
            sides_px = item.width_px, item.height_px
            crops = geometries_of(*sides_px, backend, max_px, item.sha256)
            number += len(crops)
            area_px += len(crops) * crops[0].width_px * crops[0].height_px
        size, fewer = _size(_LATENTS_BYTES_A_PX * area_px), ""
        if number < backend.crops_per_image * len(items):
            fewer = " Images that are hardly larger than their bucket have fewer."
        warnings.append(
            f"{backend.id}: with crops_per_image {backend.crops_per_image}, {len(items):,} images "
            f"have {number:,} crops, whose latents take {size} of the cache.{fewer}"
        )
    return warnings


def _size(size_bytes: int) -> str:
    mib = size_bytes / 2**20
    return f"{mib:,.1f} MiB" if mib < 1024 else f"{mib / 1024:,.1f} GiB"


def unused_crop_warnings(identity: Identity, timeline: Timeline, steps: int) -> list[str]:
    """Backends whose images have more crops than uses in the ``steps`` of the run."""
    warnings = []
    for backend in identity.backends:
        uses = math.ceil(timeline.epochs_in(steps, backend.id)) * (1 + backend.repeats)
        if 0 < uses < backend.crops_per_image:
            times = "once" if uses == 1 else f"{uses} times"
            warnings.append(
                f"{backend.id}: crops_per_image is {backend.crops_per_image}, and the run uses an "
                f"image about {times}: the other crops are encoded and not trained on. Lower it to "
                f"{uses}, or train longer."
            )
    return warnings
