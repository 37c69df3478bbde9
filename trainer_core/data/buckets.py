"""Fit an image to a size that the model takes: scale, then crop at the centre."""

import math
from typing import Final

from trainer_core.config.plan import Backend
from trainer_core.config.plan.frozen import Frozen

SIDE_MULTIPLE_PX: Final = 64


class Geometry(Frozen):
    """Scale the displayed image to ``resize_w × resize_h``, then crop it to the bucket."""

    resize_w: int
    resize_h: int
    crop_x: int
    """Left edge of the crop, in pixels of the scaled image."""
    crop_y: int
    width_px: int
    """Width of the bucket; a multiple of 64."""
    height_px: int


def bucket_of(aspect: float, area_px: int, max_px: int) -> tuple[int, int]:
    """Width and height of the bucket for an aspect ratio (width / height).

    Each side is the multiple of 64 nearest to the ideal side for ``area_px``. If the area is then
    more than ``max_px``, of the neighbouring multiples within ``max_px`` those with the closest
    aspect ratio are chosen.
    """
    ideal_w, ideal_h = math.sqrt(area_px * aspect), math.sqrt(area_px / aspect)
    nearest = (_side(round(ideal_w / SIDE_MULTIPLE_PX)), _side(round(ideal_h / SIDE_MULTIPLE_PX)))
    if nearest[0] * nearest[1] <= max_px:
        return nearest
    allowed = [
        (w, h)
        for w in _neighbours(ideal_w, max_px)
        for h in _neighbours(ideal_h, max_px)
        if w * h <= max_px
    ]
    if not allowed:  # one side is 64 and the other would still be too long
        longest = _side(max_px // SIDE_MULTIPLE_PX // SIDE_MULTIPLE_PX)
        return (longest, SIDE_MULTIPLE_PX) if aspect > 1 else (SIDE_MULTIPLE_PX, longest)
    return min(allowed, key=lambda side: (abs(math.log(side[0] / side[1] / aspect)), -side[0]))


def _side(cells: int) -> int:
    return max(1, cells) * SIDE_MULTIPLE_PX


def _neighbours(side_px: float, max_px: int) -> tuple[int, ...]:
    below = _side(math.floor(side_px / SIDE_MULTIPLE_PX))
    above = _side(math.ceil(side_px / SIDE_MULTIPLE_PX))
    return tuple(side for side in {below, above} if side * SIDE_MULTIPLE_PX <= max_px)


def is_too_small(width_px: int, height_px: int, backend: Backend) -> bool:
    """Whether the image's area is below the backend's ``minimum_image_size`` squared."""
    return width_px * height_px < backend.minimum_image_size_px**2


def geometry_of(width_px: int, height_px: int, backend: Backend, max_px: int) -> Geometry:
    """How an image of this size (as displayed) is scaled and cropped for a backend.

    Without ``crop`` the image is scaled to cover its bucket, then trimmed. With ``crop`` it keeps
    its scale, with two exceptions: an image above ``maximum_image_size`` is scaled to
    ``target_downsample_size``, and an image smaller than its bucket is scaled up.
    """
    area_px = min(backend.resolution_px**2, max_px)
    square = backend.crop and backend.crop_aspect == "square"
    aspect = 1.0 if square else round(width_px / height_px, backend.aspect_bucket_rounding)
    smallest_aspect = 10.0**-backend.aspect_bucket_rounding
    bucket_w, bucket_h = bucket_of(max(aspect, smallest_aspect), area_px, max_px)
    cover = max(bucket_w / width_px, bucket_h / height_px)
    scale = max(cover, _downsample(width_px, height_px, backend)) if backend.crop else cover
    resize_w = max(bucket_w, round(width_px * scale))
    resize_h = max(bucket_h, round(height_px * scale))
    return Geometry(
        resize_w=resize_w,
        resize_h=resize_h,
        crop_x=(resize_w - bucket_w) // 2,
        crop_y=(resize_h - bucket_h) // 2,
        width_px=bucket_w,
        height_px=bucket_h,
    )


def _downsample(width_px: int, height_px: int, backend: Backend) -> float:
    """The scale before a crop; 1 if the image is not above ``maximum_image_size``."""
    largest, target = backend.maximum_image_size_px, backend.target_downsample_size_px
    area_px = width_px * height_px
    if largest is None or target is None or area_px <= largest**2:
        return 1.0
    return min(1.0, target / math.sqrt(area_px))
