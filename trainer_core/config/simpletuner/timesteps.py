"""Options of timestep sampling: how sigma, the share of noise, is drawn and shifted."""

import json
import math
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import TimestepDistribution, TimestepOrder, TimestepSampling
from trainer_core.config.simpletuner.reading import Options, number_in
from trainer_core.config.simpletuner.verdicts import Option, Table

TIMESTEPS: Final = Table()

_SHIFT: Final = TIMESTEPS.number(
    "flow_schedule_shift", 3.0, "Shift of sigma; 0 for none.", at_least=0, at_most=1000
)
_AUTO_SHIFT: Final = TIMESTEPS.flag(
    "flow_schedule_auto_shift",
    False,
    "The shift follows the number of image tokens; goes before a fixed shift.",
)
_SIGMOID_SCALE: Final = TIMESTEPS.number(
    "flow_sigmoid_scale",
    1.0,
    "Spread of sigma, where no other distribution is chosen.",
    above=0,
    at_most=100,
)
_UNIFORM: Final = TIMESTEPS.flag("flow_use_uniform_schedule", False, "Sigma is uniform.")
_BETA: Final = TIMESTEPS.flag("flow_use_beta_schedule", False, "Sigma has a beta distribution.")
_BETA_ALPHA: Final = TIMESTEPS.number(
    "flow_beta_schedule_alpha",
    2.0,
    "First shape of the beta distribution.",
    at_least=0.05,
    at_most=1000,
)
_BETA_BETA: Final = TIMESTEPS.number(
    "flow_beta_schedule_beta",
    2.0,
    "Second shape of the beta distribution.",
    at_least=0.05,
    at_most=1000,
)
_LIST: Final = TIMESTEPS.value(
    "flow_custom_timesteps",
    "A list, or text with commas: values up to 1 are sigmas, others timesteps of 1000. Never "
    "shifted.",
)
_ORDER: Final[Option[TimestepOrder]] = TIMESTEPS.choice(
    "flow_timesteps_mode",
    {"fixed-list": "random", "round-robin": "round-robin"},
    "random",
    "Which of the custom timesteps a sample gets: one at random, or each in turn.",
)
for _older, _option in {
    "flux_schedule_shift": _SHIFT,
    "flux_schedule_auto_shift": _AUTO_SHIFT,
    "flow_matching_sigmoid_scale": _SIGMOID_SCALE,
    "flux_use_uniform_schedule": _UNIFORM,
    "flux_use_beta_schedule": _BETA,
    "flux_beta_schedule_alpha": _BETA_ALPHA,
    "flux_beta_schedule_beta": _BETA_BETA,
}.items():
    TIMESTEPS.alias(_older, _option)  # names of SimpleTuner before 2.0
TIMESTEPS.not_built(
    "flux_fast_schedule mixflow_enabled",
    "Choose another distribution of sigma and leave this out.",
    False,
    type_="bool",
)
TIMESTEPS.not_built(
    "flow_cubic_schedule_weights", "Choose another distribution of sigma and leave this out."
)

_MIN_SHIFT: Final = 1e-3
_MIN_SIGMA: Final = 1e-6
_TIMESTEPS: Final = 1000.0
_MAX_CUSTOM_SIGMAS: Final = 10_000
_OWN_OPTIONS: Final[dict[TimestepDistribution, tuple[Option[object], ...]]] = {
    "sigmoid": (_SIGMOID_SCALE,),
    "uniform": (),
    "beta": (_BETA_ALPHA, _BETA_BETA),
    "list": (_ORDER,),
}
_CHOSEN_BY: Final[dict[TimestepDistribution, Option[object]]] = {
    "list": _LIST,
    "uniform": _UNIFORM,
    "beta": _BETA,
}


def timesteps_of(config: Options) -> TimestepSampling:
    """The distribution. Parameters of the other distributions keep their defaults."""
    values = _custom_sigmas(config)
    wanted: dict[TimestepDistribution, bool] = {
        "list": bool(values),
        "uniform": config[_UNIFORM],
        "beta": config[_BETA],
    }
    chosen: list[TimestepDistribution] = [name for name, is_wanted in wanted.items() if is_wanted]
    for other in chosen[1:]:
        first, second = _CHOSEN_BY[chosen[0]], _CHOSEN_BY[other]
        message = f"{first.name} and {second.name} both choose how sigma is drawn: keep one."
        config.problem(second, "conflict", message)
    name: TimestepDistribution = chosen[0] if chosen else "sigmoid"
    for other, options in _OWN_OPTIONS.items():
        if other not in (name, *chosen):
            by = (
                "is drawn as a sigmoid"
                if name == "sigmoid"
                else f"comes from {_CHOSEN_BY[name].name}"
            )
            config.idle(f"where sigma {by}", *options)
    return TimestepSampling(
        name=name,
        sigmoid_scale=config[_SIGMOID_SCALE] if name == "sigmoid" else 1.0,
        beta_alpha=config[_BETA_ALPHA] if name == "beta" else 2.0,
        beta_beta=config[_BETA_BETA] if name == "beta" else 2.0,
        values=values if name == "list" else (),
        order=config[_ORDER] if name == "list" else "random",
    )


def shift_of(config: Options, name: TimestepDistribution) -> tuple[float, bool]:
    """The fixed shift (1 changes nothing), and whether the shift follows the tokens instead."""
    shift = config[_SHIFT] or 1.0  # 0 requests none
    if shift < _MIN_SHIFT:
        message = f"flow_schedule_shift has to be 0, or at least {_MIN_SHIFT}."
        config.problem(_SHIFT, "bad_value", message)
    is_written = config.given(_SHIFT) and config[_SHIFT] != 0
    if name == "list":
        if config[_AUTO_SHIFT]:
            config.idle("on a list of timesteps, which is never shifted", _AUTO_SHIFT)
        if is_written:
            config.idle("on a list of timesteps, which is never shifted", _SHIFT)
        return 1.0, False
    if config[_AUTO_SHIFT]:
        if is_written:
            config.idle("with flow_schedule_auto_shift", _SHIFT)
        return 1.0, True
    return shift, False


def _custom_sigmas(config: Options) -> tuple[float, ...]:
    """The list as sigmas in (0, 1]; empty where none is given or where it has a problem."""
    if not config.given(_LIST):
        return ()
    items = _list_items(config[_LIST])
    if items is None or any(_finite(item) is None for item in items):
        message = f"{_LIST.name} has to be a list of numbers, or text such as 0.2,0.5,0.8."
        config.problem(_LIST, "bad_value", message)
        return ()
    if len(items) > _MAX_CUSTOM_SIGMAS:
        message = f"{_LIST.name} has {len(items)} values, more than {_MAX_CUSTOM_SIGMAS}."
        config.problem(_LIST, "bad_value", message)
        return ()
    values = [number for item in items if (number := _finite(item)) is not None]
    sigmas = tuple(value if value <= 1 else value / _TIMESTEPS for value in values)
    wrong = [v for v, s in zip(values, sigmas, strict=True) if not _MIN_SIGMA <= s <= 1]
    if wrong:
        message = (
            f"{_LIST.name}: {wrong[0]:g} is neither a sigma above 0 and up to 1, nor a timestep up "
            "to 1000."
        )
        config.problem(_LIST, "bad_value", message)
        return ()
    if any(value > 1 for value in values) and any(value <= 1 for value in values):
        config.handled(_LIST, "values up to 1 are sigmas, those above timesteps.")
    return sigmas


def _list_items(raw: JsonValue) -> list[JsonValue] | None:
    """A list, a lone number, or text with commas or in brackets; None where it is none of these."""
    match raw:
        case list():
            return raw
        case str():
            return _text_items(raw.strip())
        case int() | float() if not isinstance(raw, bool):
            return [raw]
        case _:
            return None


def _text_items(text: str) -> list[JsonValue] | None:
    if text.lower() in ("", "none", "null"):
        return []
    if not text.startswith("["):
        return [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    try:
        return _list_items(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _finite(item: JsonValue) -> float | None:
    if isinstance(item, bool) or not isinstance(item, int | float | str):
        return None
    if isinstance(item, str):
        return number_in(item)
    try:
        number = float(item)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
