"""Options of resolution and size limits, of the run and of each data backend.

What a backend does not give is taken from the run.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from trainer_core.config.plan import SizeBy
from trainer_core.config.simpletuner.crops import Crops
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

RUN_SIZES: Final = Table()
BACKEND_SIZES: Final = Table()
_MAX_EDGE_PX: Final = 100_000
_LEAST_EDGE_PX: Final = 64
_DEFAULT_EDGE_PX: Final = 1024

_Unit = Literal["pixel_area", "area", "pixel"]
_UNIT_REASON: Final = (
    "The unit of all sizes. pixel_area: edge whose square is the area; area: megapixels, taken as "
    "the whole number of pixels nearest to that edge; pixel: the shorter edge."
)
_IN_RUN: Final = "Default of the data backends."

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

_OWN_RESOLUTION: Final[Option[float | None]] = BACKEND_SIZES.number(
    "resolution", None, "Size that the buckets aim at.", above=0
)
_OWN_UNIT: Final[Option[_Unit | None]] = BACKEND_SIZES.choice(
    "resolution_type",
    _Unit,
    None,
    f"{_UNIT_REASON} It measures those sizes of the run, too, that the backend does not give.",
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
_LEAST_ASPECT: Final = BACKEND_SIZES.number(
    "minimum_aspect_ratio",
    0.0,
    "Images with a smaller ratio of width to height, rounded by aspect_bucket_rounding, are left "
    "out; 0: none is.",
    at_least=0,
)
_LARGEST_ASPECT: Final = BACKEND_SIZES.number(
    "maximum_aspect_ratio",
    0.0,
    "Images with a larger ratio of width to height, rounded by aspect_bucket_rounding, are left "
    "out; 0: none is.",
    at_least=0,
)
BACKEND_SIZES.handled("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream.")
NOT_OF_MASKS: Final = (
    *(_OWN_RESOLUTION, _OWN_UNIT, _OWN_MINIMUM, _OWN_MAXIMUM, _OWN_TARGET),
    *(_LEAST_ASPECT, _LARGEST_ASPECT),
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
    """How the images of a backend are chosen and scaled, in the plan's fields."""

    resolution_px: int
    sizes_by: SizeBy
    aspect_bucket_rounding: int
    minimum_image_size_px: int
    maximum_image_size_px: int | None
    target_downsample_size_px: int | None
    minimum_aspect_ratio: float | None
    maximum_aspect_ratio: float | None


def sizes_of(options: Options, config: Options, max_area_px: int, crops: Crops) -> Sizes:
    """The sizes of a backend. A resolution above the base model's ``max_area_px`` is lowered."""
    resolution_px = _resolution_px(options, config, max_area_px)
    minimum_px = _edge_px(_OF_MINIMUM, options, config) or 0
    maximum_px, target_px = _downsample_px(options, config, crops)
    # Both measures of a square are its edge.
    matters = not crops.is_square or minimum_px > 0 or maximum_px is not None
    unit = options[_OWN_UNIT] or config[_UNIT]
    return Sizes(
        resolution_px=resolution_px,
        sizes_by="shorter_edge" if unit == "pixel" and matters else "area",
        aspect_bucket_rounding=config[_ROUNDING],
        minimum_image_size_px=minimum_px,
        maximum_image_size_px=maximum_px,
        target_downsample_size_px=target_px,
        minimum_aspect_ratio=options[_LEAST_ASPECT] or None,
        maximum_aspect_ratio=options[_LARGEST_ASPECT] or None,
    )


def _downsample_px(
    options: Options, config: Options, crops: Crops
) -> tuple[int, int] | tuple[None, None]:
    """``maximum_image_size`` and ``target_downsample_size``, which act only together."""
    maximum_px = _edge_px(_OF_MAXIMUM, options, config)
    target_px = _edge_px(_OF_TARGET, options, config)
    if not crops.crop:
        options.idle("without crop", _OWN_MAXIMUM, _OWN_TARGET)
        return None, None
    if maximum_px is None or target_px is None:
        options.idle("without maximum_image_size", _OWN_TARGET)
        options.idle("without target_downsample_size", _OWN_MAXIMUM)
        return None, None
    if target_px > maximum_px:
        options.differs(
            _OWN_TARGET,
            "is above maximum_image_size: images between the two are cut as they are.",
        )
    return maximum_px, target_px


def tell_idle_sizes(config: Options) -> None:
    """Tell that size limits of the run have no effect, because no backend is cropped."""
    config.idle("where no backend is cropped", _MAXIMUM, _TARGET)


def _edge_px(size: _Size, options: Options, config: Options) -> int | None:
    """The edge that a size option names, in pixels; None where it is not given.

    A backend's number is in the backend's unit, and in the run's where the backend gives none; the
    run's number is in the run's unit. What the edge is the edge of, the backend's unit decides.
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
