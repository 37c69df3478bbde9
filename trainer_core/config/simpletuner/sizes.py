"""Options of resolution, size limits and crops, of the run and of each data backend.

What a backend does not give is taken from the run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan import CropAspect
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

RUN_SIZES: Final = Table()
BACKEND_SIZES: Final = Table()
_MAX_EDGE_PX: Final = 100_000
_LEAST_EDGE_PX: Final = 64
_DEFAULT_EDGE_PX: Final = 1024

_Unit = Literal["pixel_area", "area", "pixel"]
_UNIT_REASON: Final = (
    "pixel_area: edge whose square is the area; area: megapixels; pixel: the shorter edge, only "
    "for square crops without size limits, where it is the same as pixel_area."
)
_IN_RUN: Final = "Default of the data backends."
_OF_OTHER_SHAPES: Final = "It belongs to crop_aspect closest and random."

_RESOLUTION: Final = RUN_SIZES.number("resolution", 1024.0, _IN_RUN, above=0)
_UNIT: Final[Option[_Unit]] = RUN_SIZES.choice("resolution_type", _Unit, "pixel_area", _UNIT_REASON)
_MINIMUM: Final = RUN_SIZES.number(
    "minimum_image_size", 0.0, f"Smaller images are left out. {_IN_RUN}", at_least=0
)
_MAXIMUM: Final[Option[float | None]] = RUN_SIZES.number(
    "maximum_image_size", None, _IN_RUN, above=0
)
_TARGET: Final[Option[float | None]] = RUN_SIZES.number(
    "target_downsample_size", None, _IN_RUN, above=0
)
_ROUNDING: Final = RUN_SIZES.integer(
    "aspect_bucket_rounding", 2, "Decimals of the aspect ratio.", at_least=1, at_most=9
)
RUN_SIZES.handled("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream.")
RUN_SIZES.no_effect("max_upscale_threshold", _OF_OTHER_SHAPES)

_OWN_RESOLUTION: Final[Option[float | None]] = BACKEND_SIZES.number(
    "resolution", None, "Size that the buckets aim at.", above=0
)
_OWN_UNIT: Final[Option[_Unit | None]] = BACKEND_SIZES.choice(
    "resolution_type", _Unit, None, _UNIT_REASON
)
_OWN_MINIMUM: Final[Option[float | None]] = BACKEND_SIZES.number(
    "minimum_image_size", None, "Smaller images are left out.", at_least=0
)
_OWN_MAXIMUM: Final[Option[float | None]] = BACKEND_SIZES.number(
    "maximum_image_size",
    None,
    "Larger images are scaled to target_downsample_size before a crop.",
    above=0,
)
_OWN_TARGET: Final[Option[float | None]] = BACKEND_SIZES.number(
    "target_downsample_size", None, "See maximum_image_size.", above=0
)
CROP: Final = BACKEND_SIZES.flag(
    "crop", False, "Cut the image instead of scaling it to its bucket."
)
_CROP_STYLE: Final[Option[str]] = BACKEND_SIZES.choice(
    "crop_style",
    {"center": "center"},
    "center",
    "Where the image is cut; SimpleTuner's default, random, is not built, so say center.",
    known=("random", "corner", "face"),
)
_CROP_ASPECT: Final[Option[CropAspect]] = BACKEND_SIZES.choice(
    "crop_aspect", CropAspect, "square", "Shape of the crop.", known=("closest", "random")
)
BACKEND_SIZES.handled("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream.")
BACKEND_SIZES.not_built("maximum_aspect_ratio", "Leave it out.")
BACKEND_SIZES.no_effect("crop_aspect_buckets max_upscale_threshold", _OF_OTHER_SHAPES)
BACKEND_SIZES.not_built("minimum_aspect_ratio", "Leave it out.", 0)
BACKEND_SIZES.unlike(
    _CROP_STYLE, "Where it is not given, images are cut at the centre; by SimpleTuner at random."
)
_WAYS_TO_CROP: Final = (_CROP_STYLE, _CROP_ASPECT, _OWN_MAXIMUM, _OWN_TARGET)
NOT_OF_MASKS: Final = (
    *(_OWN_RESOLUTION, _OWN_UNIT, CROP, _CROP_ASPECT, _CROP_STYLE),
    *(_OWN_MINIMUM, _OWN_MAXIMUM, _OWN_TARGET),
)
"""Options without effect on masks, which get the sizes and crops of their images."""

_Size = tuple[Option[float | None], Option[float | None]]
_OF_MINIMUM: Final[_Size] = (_OWN_MINIMUM, _MINIMUM)
_OF_MAXIMUM: Final[_Size] = (_OWN_MAXIMUM, _MAXIMUM)
_OF_TARGET: Final[_Size] = (_OWN_TARGET, _TARGET)
_OF_RESOLUTION: Final[_Size] = (_OWN_RESOLUTION, _RESOLUTION)
"""Option of the backend, option of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How the images of a backend are scaled and cut, in the plan's terms."""

    resolution_px: int
    aspect_bucket_rounding: int
    crop: bool
    crop_aspect: CropAspect
    minimum_image_size_px: int
    maximum_image_size_px: int | None
    target_downsample_size_px: int | None


def sizes_of(options: Options, config: Options, max_area_px: int) -> Sizes:
    """The sizes of a backend. A resolution above the base model's ``max_area_px`` is lowered."""
    resolution_px = _resolution_px(options, config, max_area_px)
    maximum_px = _edge_px(_OF_MAXIMUM, options, config)
    target_px = _edge_px(_OF_TARGET, options, config)
    crop = options[CROP]
    if not crop:
        options.idle("without crop", *_WAYS_TO_CROP)
        maximum_px = target_px = None
    elif maximum_px is None or target_px is None:
        options.idle("without maximum_image_size", _OWN_TARGET)
        options.idle("without target_downsample_size", _OWN_MAXIMUM)
        maximum_px = target_px = None
    elif maximum_px is not None and target_px is not None and target_px > maximum_px:
        options.differs(
            _OWN_TARGET,
            "is above maximum_image_size: images between the two are cut as they are.",
        )
    if crop and not options.given(_CROP_STYLE):
        options.differs(
            _CROP_STYLE, "is not given; images are cut at the centre, by SimpleTuner at random."
        )
    minimum_px = _edge_px(_OF_MINIMUM, options, config) or 0
    if not (crop and options[_CROP_ASPECT] == "square") or minimum_px or maximum_px:
        _refuse_shorter_edge(options, config)
    return Sizes(
        resolution_px=resolution_px,
        aspect_bucket_rounding=config[_ROUNDING],
        crop=crop,
        crop_aspect=options[_CROP_ASPECT] if crop else "square",
        minimum_image_size_px=minimum_px,
        maximum_image_size_px=maximum_px,
        target_downsample_size_px=target_px,
    )


def _refuse_shorter_edge(options: Options, config: Options) -> None:
    """Report sizes by the shorter edge, where it is not the edge of a square."""
    of_backend = options.given(_OWN_UNIT)
    owner, option = (options, _OWN_UNIT) if of_backend else (config, _UNIT)
    if owner[option] != "pixel":
        return
    message = (
        "resolution_type: pixel is built only for square crops without size limits; use pixel_area."
    )
    owner.problem(option, "not_implemented", message)


def without_idle_crops(item: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A backend without crop, where crop options that are not built have their defaults."""
    changed = dict(item)
    for option in _WAYS_TO_CROP:
        for name in (option.name, f"--{option.name}"):
            value = item.get(name)
            if isinstance(value, str) and value in option.known:
                changed[name] = str(option.default)
    return changed


def tell_idle_sizes(config: Options) -> None:
    """Tell that size limits of the run have no effect, because no backend is cropped."""
    config.idle("where no backend is cropped", _MAXIMUM, _TARGET)


def _edge_px(size: _Size, options: Options, config: Options) -> int | None:
    """The edge of the square whose area a size option names; None where it is not given.

    The number is that edge under ``pixel_area`` and megapixels under ``area``. A backend's number
    is in the backend's unit, and in the run's unit where the backend gives none.
    """
    own, of_run = size
    owner, option = (options, own) if options.given(own) else (config, of_run)
    value = owner[option]
    if value is None:
        return None
    unit = (options[_OWN_UNIT] if owner is options else None) or config[_UNIT]
    edge = math.sqrt(value * 1e6) if unit == "area" else value
    if edge > _MAX_EDGE_PX:
        message = f"{option.name}: {value:g} is too large ({unit})."
        owner.problem(option, "bad_value", message)
        return None
    if 0 < edge < 1:
        message = f"{option.name}: {value:g} is less than a pixel ({unit})."
        owner.problem(option, "bad_value", message)
        return None
    return round(edge)


def _resolution_px(options: Options, config: Options, max_area_px: int) -> int:
    edge_px = _edge_px(_OF_RESOLUTION, options, config)
    wanted = _DEFAULT_EDGE_PX if edge_px is None else edge_px
    largest = math.isqrt(max_area_px)
    if wanted > largest:
        message = f"{wanted} pixels are more than the base model takes; lowered to {largest}."
        of_backend = options.given(_OWN_RESOLUTION)
        owner, option = (options, _OWN_RESOLUTION) if of_backend else (config, _RESOLUTION)
        owner.differs(option, message)
        return largest
    if wanted < _LEAST_EDGE_PX:
        unit = options[_OWN_UNIT] or config[_UNIT]
        message = f"resolution has to be at least 64 pixels, this is {wanted} ({unit})."
        if options.given(_OWN_RESOLUTION):
            options.problem(_OWN_RESOLUTION, "bad_value", message)
        else:
            config.problem(_RESOLUTION, "bad_value", message)
        return _LEAST_EDGE_PX
    return wanted
