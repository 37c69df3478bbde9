"""Options of crops: whether images are cut, to which shape and where."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend, CropAspect, CropStyle
from trainer_core.config.simpletuner.reading import Options, number_in
from trainer_core.config.simpletuner.verdicts import Option, Table

RUN_CROPS: Final = Table()
BACKEND_CROPS: Final = Table()
_FROM_LIST: Final[tuple[CropAspect, ...]] = ("closest", "random")
_MAX_RATIOS: Final = 100
_MAX_CROPS: Final = 64
_LEAST: Final = 0.01
_LARGEST: Final = 100.0
_TOLERANCE: Final = 1e-6
_ASPECT_KEYS: Final = ("aspect", "aspect_bucket")
"""SimpleTuner reads the first; its messages and error texts say the second."""
_RATIO_RULE: Final = (
    "crop_aspect_buckets has to be a list of ratios of width to height from 0.01 to 100, such as "
    '[0.67, 1.0, 1.5], or of {"aspect": 1.5, "weight": 0.5} with weights that add up to 1.'
)

_THRESHOLD: Final[Option[float | None]] = RUN_CROPS.number(
    "max_upscale_threshold", None, "Default of the data backends.", at_least=0
)

CROP: Final = BACKEND_CROPS.flag(
    "crop", False, "Cut the image instead of scaling it to its bucket."
)
_STYLE: Final[Option[CropStyle]] = BACKEND_CROPS.choice(
    "crop_style",
    {"random": "random", "center": "center", "centre": "center", "corner": "corner"},
    "random",
    "Where the image is cut: anywhere, in the middle, or at the top left. Random crops depend on "
    "the image's content alone: an image has the same ones in every epoch and every run, and one "
    "unless crops_per_image says more.",
    known=("face",),
    nearest="center, or images that you cut around the faces yourself; it takes a face detector, "
    "and none is part of Reverie",
)
_ASPECT: Final[Option[CropAspect]] = BACKEND_CROPS.choice(
    "crop_aspect",
    CropAspect,
    "square",
    "Shape of the crop: square, the image's own (preserve), or one of crop_aspect_buckets: that "
    "closest to the image's, or a random one, the same in every epoch and every run.",
)
_RATIOS: Final = BACKEND_CROPS.value(
    "crop_aspect_buckets",
    "Ratios of width to height that crop_aspect closest and random choose from, such as [0.67, "
    '1.0, 1.5]; for random also {"aspect": 1.5, "weight": 0.5}, with weights that add up to 1.',
)
_OWN_THRESHOLD: Final[Option[float | None]] = BACKEND_CROPS.number(
    "max_upscale_threshold",
    None,
    "With crop_aspect closest and random: 0.2 leaves out ratios for which a side of the image "
    "would grow by more than 20 %, and an image for which none is left.",
    at_least=0,
)
_CROPS: Final = BACKEND_CROPS.integer(
    "crops_per_image",
    1,
    "Reverie's own: with crop_style random so many crops of each image, at places of their own and "
    "of one shape. Each is cached, and the uses of an image, over repeats and epochs, take them in "
    "turn.",
    at_least=1,
    at_most=_MAX_CROPS,
)
BACKEND_CROPS.unlike(
    _STYLE,
    "The random crops of an image, one or crops_per_image, stay the same in every epoch; "
    "SimpleTuner cuts anew where vae_cache_clear_each_epoch is true.",
)
BACKEND_CROPS.unlike(
    _ASPECT,
    "The random shape of an image stays the same in every epoch; SimpleTuner picks another.",
)
BACKEND_CROPS.unlike(
    _OWN_THRESHOLD,
    "An image that is too small for every shape is left out with a warning, as SimpleTuner's "
    "guide says; its code cuts such an image square. It acts on crop_aspect closest, too.",
)
WAYS_TO_CROP: Final[tuple[Option[Any], ...]] = (_STYLE, _ASPECT, _RATIOS, _OWN_THRESHOLD, _CROPS)
"""Options without effect where an image is not cut."""
NOT_OF_MASKS: Final = (CROP, *WAYS_TO_CROP)
"""Options without effect on masks, which are cut as their images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """How the images of a backend are cut, in the plan's fields."""

    crop: bool
    crop_style: CropStyle = "center"
    crop_aspect: CropAspect = "square"
    crop_aspect_buckets: tuple[float, ...] = ()
    crop_aspect_weights: tuple[float, ...] = ()
    max_upscale_threshold: float | None = None
    crops_per_image: int = 1

    @property
    def is_square(self) -> bool:
        return self.crop and self.crop_aspect == "square"


def crops_of(options: Options, config: Options, *, is_trained_on: bool) -> Crops:
    """The crops of a backend."""
    ratios = _ratios(options)
    if not options[CROP]:
        options.idle("without crop", *WAYS_TO_CROP)
        return Crops(crop=False)
    style, aspect = options[_STYLE], options[_ASPECT]
    number = _number_of_crops(options, style, is_trained_on=is_trained_on)
    if aspect not in _FROM_LIST:
        options.idle(f"with crop_aspect {aspect}", _RATIOS, _OWN_THRESHOLD)
        return Crops(crop=True, crop_style=style, crop_aspect=aspect, crops_per_image=number)
    if options[_RATIOS] is None:
        message = (
            f"crop_aspect_buckets is missing: crop_aspect {aspect} takes one of them, such as of "
            "[0.67, 1.0, 1.5]."
        )
        options.problem(_RATIOS, "missing", message)
    has_own_limit = options.given(_OWN_THRESHOLD)
    return Crops(
        crop=True,
        crop_style=style,
        crop_aspect=aspect,
        crop_aspect_buckets=tuple(ratio for ratio, _ in ratios),
        crop_aspect_weights=tuple(weight for _, weight in ratios if weight is not None)
        if aspect == "random"
        else (),
        max_upscale_threshold=options[_OWN_THRESHOLD] if has_own_limit else config[_THRESHOLD],
        crops_per_image=number,
    )


def _number_of_crops(options: Options, style: CropStyle, *, is_trained_on: bool) -> int:
    if style != "random":
        options.idle(f"with crop_style {style}", _CROPS)
        return 1
    if not is_trained_on:
        options.idle("on held-out images", _CROPS)
        return 1
    return options[_CROPS]


def without_idle_crops(item: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A backend without crop, where ways to crop that are not built have their defaults."""
    changed = dict(item)
    for option in WAYS_TO_CROP:
        for name in (option.name, f"--{option.name}"):
            value = item.get(name)
            if isinstance(value, str) and value in option.known:
                changed[name] = str(option.default)
    return changed


def tell_idle_threshold(config: Options, backends: Sequence[Backend]) -> None:
    """Tell that the run's limit has no effect, where no backend chooses from a list."""
    if not any(backend.crop_aspect in _FROM_LIST for backend in backends):
        config.idle("where no backend has crop_aspect closest or random", _THRESHOLD)


def _ratios(options: Options) -> list[tuple[float, float | None]]:
    """The ratios of ``crop_aspect_buckets``, each with its weight, if any; empty where wrong."""
    raw = options[_RATIOS]
    if raw is None:
        return []
    listed = _listed(raw)
    found = [] if listed is None else [_ratio(each) for each in listed]
    ratios = [each for each in found if each is not None]
    weights = [weight for _, weight in ratios if weight is not None]
    are_whole = not weights or abs(sum(weights) - 1) < _TOLERANCE
    if (
        0 < len(found) <= _MAX_RATIOS
        and len(ratios) == len(found)
        and len(weights) in (0, len(ratios))
        and are_whole
    ):
        return ratios
    options.problem(_RATIOS, "bad_value", _RATIO_RULE)
    return []


def _listed(raw: JsonValue) -> list[JsonValue] | None:
    """The items of a list, which may be written as text."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    if isinstance(raw, str):
        return [part.strip() for part in raw.split(",")]
    return raw if isinstance(raw, list) else None


def _ratio(item: JsonValue) -> tuple[float, float | None] | None:
    """One ratio with its weight, if any; None where it is wrong."""
    if not isinstance(item, dict):
        ratio = _number(item)
        return None if ratio is None or not _LEAST <= ratio <= _LARGEST else (ratio, None)
    named = [key for key in _ASPECT_KEYS if key in item]
    if len(named) != 1 or item.keys() - {*named, "weight"}:
        return None
    ratio, weight = _number(item[named[0]]), _number(item.get("weight"))
    if ratio is None or not _LEAST <= ratio <= _LARGEST:
        return None
    if "weight" in item and (weight is None or not 0 <= weight <= 1):
        return None
    return ratio, weight


def _number(value: JsonValue) -> float | None:
    """A finite number, which may be written as text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        value = str(value)
    return number_in(value) if isinstance(value, str) else None
