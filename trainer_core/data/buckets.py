"""Fit an image to a size that the model takes: choose a bucket, scale the image, then crop it."""

import bisect
import hashlib
import math
from itertools import accumulate
from typing import Final, Literal, assert_never

from trainer_core.config.plan import Backend
from trainer_core.config.plan.frozen import Frozen

SIDE_MULTIPLE_PX: Final = 64

Unfit = Literal["small", "narrow", "wide", "enlarged"]
"""Why an image is left out: its size, its aspect ratio, or that every shape would enlarge it too
much."""


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


def unfit(width_px: int, height_px: int, backend: Backend, max_px: int) -> Unfit | None:
    """Why an image of this size is left out; None where it is used. Sizes as in ``geometry_of``."""
    if _edge_of(width_px, height_px, backend) < backend.minimum_image_size_px:
        return "small"
    aspect = _rounded_aspect(width_px, height_px, backend)
    if backend.minimum_aspect_ratio is not None and aspect < backend.minimum_aspect_ratio:
        return "narrow"
    if backend.maximum_aspect_ratio is not None and aspect > backend.maximum_aspect_ratio:
        return "wide"
    if _chooses_aspect(backend) and not _open_aspects(width_px, height_px, backend, max_px):
        return "enlarged"
    return None


def bucket_needs_digest(backend: Backend) -> bool:
    """Whether the size of the crop depends on the image's SHA-256, and not only its place."""
    return backend.crop and backend.crop_aspect == "random"


def bucket_size(
    width_px: int, height_px: int, backend: Backend, max_px: int, sha256: str
) -> tuple[int, int]:
    """Width and height of an image's bucket; the arguments are those of ``geometry_of``."""
    aspect = _aspect_of(width_px, height_px, backend, max_px, sha256)
    return _bucket_of(aspect, backend, max_px)


def largest_bucket_px(backend: Backend, max_px: int) -> int:
    """Area of the largest bucket that images of unknown shapes may have; ``max_px``: as above."""
    by_edge = backend.sizes_by == "shorter_edge"
    is_square = backend.crop and backend.crop_aspect == "square"
    return max_px if by_edge and not is_square else backend.resolution_px**2


def geometries_of(
    width_px: int, height_px: int, backend: Backend, max_px: int, sha256: str
) -> tuple[Geometry, ...]:
    """The crops of an image, at least one and at most ``crops_per_image``.

    There are fewer where some lie at the same place, as in an image hardly larger than its bucket.
    The arguments are those of ``geometry_of``.
    """
    numbers = range(backend.crops_per_image)
    size = width_px, height_px
    return tuple(
        dict.fromkeys(
            geometry_of(*size, backend, max_px, sha256, number=number) for number in numbers
        )
    )


def geometry_of(
    width_px: int, height_px: int, backend: Backend, max_px: int, sha256: str, *, number: int = 0
) -> Geometry:
    """How an image is scaled and cropped for a backend.

    Without ``crop`` the image is scaled to cover its bucket, then trimmed on both sides alike. With
    ``crop`` it keeps its scale, with two exceptions: an image above ``maximum_image_size`` is
    scaled to ``target_downsample_size``, and an image smaller than its bucket is scaled up.

    A random crop is a function of the image's content, the size it is scaled to, its bucket and its
    number. So an image has the same ones in every run and under every name.

    Args:
        width_px: of the image as displayed.
        height_px: of the image as displayed.
        backend: one that the image is not ``unfit`` for.
        max_px: the largest area in pixels that the base model takes.
        sha256: of the image's file; may be empty where the backend's crops do not depend on it.
        number: of the crop, below ``crops_per_image``; all of an image differ in their place only.
    """
    bucket_w, bucket_h = bucket_size(width_px, height_px, backend, max_px, sha256)
    cover = max(bucket_w / width_px, bucket_h / height_px)
    scale = max(cover, _downsample(width_px, height_px, backend)) if backend.crop else cover
    resize_w = max(bucket_w, round(width_px * scale))
    resize_h = max(bucket_h, round(height_px * scale))
    spare = (resize_w - bucket_w, resize_h - bucket_h)
    style = backend.crop_style if backend.crop else "center"
    match style:
        case "center":
            crop_x, crop_y = spare[0] // 2, spare[1] // 2
        case "corner":
            crop_x, crop_y = 0, 0
        case "random":
            drawn = f"{resize_w}x{resize_h} {bucket_w}x{bucket_h}"
            if number:  # the first crop has the place of an image's only one
                drawn += f" {number}"
            crop_x = _draw(f"crop x {drawn}", sha256) % (spare[0] + 1)
            crop_y = _draw(f"crop y {drawn}", sha256) % (spare[1] + 1)
        case _:
            assert_never(style)
    return Geometry(
        resize_w=resize_w,
        resize_h=resize_h,
        crop_x=crop_x,
        crop_y=crop_y,
        width_px=bucket_w,
        height_px=bucket_h,
    )


def _draw(purpose: str, sha256: str) -> int:
    """64 bits that depend on the purpose and the image alone, not on the seed of a run."""
    if not sha256:
        raise ValueError(f"the image's SHA-256 is needed ({purpose})")
    body = f"{purpose} {sha256}".encode()
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest())


def _aspect_of(width_px: int, height_px: int, backend: Backend, max_px: int, sha256: str) -> float:
    """Width / height that the bucket of an image aims at."""
    own = _rounded_aspect(width_px, height_px, backend)
    if not backend.crop:
        return own
    match backend.crop_aspect:
        case "square":
            return 1.0
        case "preserve":
            return own
        case "closest":
            found = _open_aspects(width_px, height_px, backend, max_px)
            return min(found, key=lambda aspect: abs(aspect - own))
        case "random":
            found = _open_aspects(width_px, height_px, backend, max_px)
            ends = tuple(accumulate(found.values()))
            share = _draw(f"crop aspect {backend.resolution_px}", sha256) / 2**64
            place = bisect.bisect_right(ends, share * ends[-1])
            return tuple(found)[min(place, len(ends) - 1)]
        case _:
            assert_never(backend.crop_aspect)


def _rounded_aspect(width_px: int, height_px: int, backend: Backend) -> float:
    digits = backend.aspect_bucket_rounding
    return max(round(width_px / height_px, digits), 10.0**-digits)


def _chooses_aspect(backend: Backend) -> bool:
    return backend.crop and backend.crop_aspect in ("closest", "random")


def _open_aspects(
    width_px: int, height_px: int, backend: Backend, max_px: int
) -> dict[float, float]:
    """The ratios of ``crop_aspect_buckets`` that the image may have → how likely each is."""
    weights = backend.crop_aspect_weights or (1.0,) * len(backend.crop_aspect_buckets)
    limit = backend.max_upscale_threshold
    found: dict[float, float] = {}
    for aspect, weight in zip(backend.crop_aspect_buckets, weights, strict=True):
        if limit is not None:
            bucket_w, bucket_h = _bucket_of(aspect, backend, max_px)
            if bucket_w > width_px * (1 + limit) or bucket_h > height_px * (1 + limit):
                continue
        if weight > 0:
            found[aspect] = found.get(aspect, 0.0) + weight
    return found


def _bucket_of(aspect: float, backend: Backend, max_px: int) -> tuple[int, int]:
    """Width and height of the bucket for an aspect ratio (width / height).

    Each side is the multiple of 64 nearest to its ideal. If the area is then more than ``max_px``,
    of the neighbouring multiples within ``max_px`` those with the closest aspect ratio are chosen.
    """
    ideal_w, ideal_h = _ideal_sides(aspect, backend, max_px)
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


def _ideal_sides(aspect: float, backend: Backend, max_px: int) -> tuple[float, float]:
    """Width and height of the backend's resolution, with an area of at most ``max_px``."""
    edge_px = backend.resolution_px
    match backend.sizes_by:
        case "area":
            area_px = float(min(edge_px**2, max_px))
        case "shorter_edge":
            sides = (edge_px * aspect, edge_px) if aspect >= 1 else (edge_px, edge_px / aspect)
            if sides[0] * sides[1] <= max_px:
                return sides
            area_px = float(max_px)
        case _:
            assert_never(backend.sizes_by)
    return math.sqrt(area_px * aspect), math.sqrt(area_px / aspect)


def _side(cells: int) -> int:
    return max(1, cells) * SIDE_MULTIPLE_PX


def _neighbours(side_px: float, max_px: int) -> tuple[int, ...]:
    below = _side(math.floor(side_px / SIDE_MULTIPLE_PX))
    above = _side(math.ceil(side_px / SIDE_MULTIPLE_PX))
    return tuple(side for side in {below, above} if side * SIDE_MULTIPLE_PX <= max_px)


def _edge_of(width_px: int, height_px: int, backend: Backend) -> float:
    """The size of an image: its shorter edge, or the edge of the square of its area."""
    match backend.sizes_by:
        case "area":
            return math.sqrt(width_px * height_px)
        case "shorter_edge":
            return min(width_px, height_px)
        case _:
            assert_never(backend.sizes_by)


def _downsample(width_px: int, height_px: int, backend: Backend) -> float:
    """The scale before a crop; 1 if the image is not above ``maximum_image_size``."""
    largest, target = backend.maximum_image_size_px, backend.target_downsample_size_px
    edge_px = _edge_of(width_px, height_px, backend)
    if largest is None or target is None or edge_px <= largest:
        return 1.0
    return min(1.0, target / edge_px)
