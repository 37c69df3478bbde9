"""The part of a plan that says what a step learns from its samples."""

import json
import math
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan import Backend, Objective, TimestepSampling
from trainer_core.config.simpletuner.reading import Findings, Options, number_in, warn_idle
from trainer_core.config.simpletuner.scalars import is_full_rank, was_judged

_MIN_SHIFT: Final = 1e-3
_MIN_SIGMA: Final = 1e-6
_TIMESTEPS: Final = 1000.0
_MAX_CUSTOM_SIGMAS: Final = 10_000
_BALANCE_WEIGHT: Final = 0.01
"""What SimpleTuner's documentation says is the default."""
_LIST: Final = "flow_custom_timesteps"

LawName = Literal["sigmoid", "uniform", "beta", "list"]
_OWN_OPTIONS: Final[dict[LawName, tuple[str, ...]]] = {
    "sigmoid": ("flow_sigmoid_scale",),
    "uniform": (),
    "beta": ("flow_beta_schedule_alpha", "flow_beta_schedule_beta"),
    "list": ("flow_timesteps_mode",),
}
_CHOSEN_BY: Final[dict[LawName, str]] = {
    "list": _LIST,
    "uniform": "flow_use_uniform_schedule",
    "beta": "flow_use_beta_schedule",
}


def objective_of(config: Options, backends: Sequence[Backend], findings: Findings) -> Objective:
    sigma = _sigma(config, findings)
    shift, follows_tokens = _shift(config, sigma.name, findings)
    loss = _loss(config)
    if loss == "l2":
        warn_idle(config, ("huber_c", "huber_schedule"), findings, "on the loss l2")
    return Objective(
        sigma=sigma,
        shift=shift,
        auto_shift=follows_tokens,
        loss=loss,
        huber_c=(config.number("huber_c") or 0.1) if loss != "l2" else 0.1,
        huber_schedule=_huber_schedule(config) if loss != "l2" else "snr",
        masked_loss_probability=_mask_probability(config, backends, findings),
        balance_weight=_balance_weight(config, findings),
        pad_compat=config.flag("pad_compat"),
    )


def _sigma(config: Options, findings: Findings) -> TimestepSampling:
    """One law; the shape of a law that is not chosen stays at its default, so equal runs meet."""
    values = _custom_sigmas(config, findings)
    wanted: dict[LawName, bool] = {
        "list": bool(values),
        "uniform": config.flag("flow_use_uniform_schedule"),
        "beta": config.flag("flow_use_beta_schedule"),
    }
    chosen: list[LawName] = [law for law, is_wanted in wanted.items() if is_wanted]
    for other in chosen[1:]:
        first, second = _CHOSEN_BY[chosen[0]], _CHOSEN_BY[other]
        message = f"{first} and {second} are two laws for sigma: keep one of them."
        findings.problem(config.at(second), "conflict", message)
    law: LawName = chosen[0] if chosen else "sigmoid"
    for other, options in _OWN_OPTIONS.items():
        if other not in (law, *chosen):
            named = "is drawn as a sigmoid" if law == "sigmoid" else f"comes from {_CHOSEN_BY[law]}"
            warn_idle(config, options, findings, f"where sigma {named}")
    is_round_robin = law == "list" and config.text("flow_timesteps_mode") == "round-robin"
    return TimestepSampling(
        name=law,
        sigmoid_scale=_number(config, "flow_sigmoid_scale") if law == "sigmoid" else 1.0,
        beta_alpha=_number(config, "flow_beta_schedule_alpha") if law == "beta" else 2.0,
        beta_beta=_number(config, "flow_beta_schedule_beta") if law == "beta" else 2.0,
        values=values if law == "list" else (),
        order="round-robin" if is_round_robin else "random",
    )


def _custom_sigmas(config: Options, findings: Findings) -> tuple[float, ...]:
    """The list as sigmas in (0, 1]; empty where none is given or where it has a problem."""
    if not config.given(_LIST):
        return ()
    raw = config.raw(_LIST)
    items = _list_items(raw)
    at = config.at(_LIST)
    if items is None or any(_finite(item) is None for item in items):
        message = f"{_LIST} has to be a list of numbers, or text such as 0.2,0.5,0.8."
        findings.problem(at, "bad_value", message)
        return ()
    if len(items) > _MAX_CUSTOM_SIGMAS:
        message = f"{_LIST} has {len(items)} values, more than {_MAX_CUSTOM_SIGMAS}."
        findings.problem(at, "bad_value", message)
        return ()
    values = [number for item in items if (number := _finite(item)) is not None]
    sigmas = tuple(value if value <= 1 else value / _TIMESTEPS for value in values)
    wrong = [v for v, s in zip(values, sigmas, strict=True) if not _MIN_SIGMA <= s <= 1]
    if wrong:
        message = (
            f"{_LIST}: {wrong[0]:g} is neither a sigma above 0 and up to 1, nor a timestep up to "
            "1000."
        )
        findings.problem(at, "bad_value", message)
        return ()
    if any(value > 1 for value in values) and any(value <= 1 for value in values):
        findings.warn(f"{_LIST}: values up to 1 are taken as sigmas, those above as timesteps.")
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


def _shift(config: Options, law: LawName, findings: Findings) -> tuple[float, bool]:
    """The fixed shift (1 changes nothing), and whether the shift follows the tokens instead."""
    shift = config.number("flow_schedule_shift") or 1.0  # 0 asks for none
    if shift < _MIN_SHIFT:
        message = f"flow_schedule_shift has to be 0, or at least {_MIN_SHIFT}."
        findings.problem(config.at("flow_schedule_shift"), "bad_value", message)
    follows_tokens = config.flag("flow_schedule_auto_shift")
    if law == "list":
        if follows_tokens:
            findings.warn("flow_schedule_auto_shift has no effect: a list is never shifted.")
        if _writes_shift(config):
            findings.warn("flow_schedule_shift has no effect: a list is never shifted.")
        return 1.0, False
    if follows_tokens:
        if _writes_shift(config):
            findings.warn("flow_schedule_shift has no effect: flow_schedule_auto_shift is on.")
        return 1.0, True
    return shift, False


def _writes_shift(config: Options) -> bool:
    return config.given("flow_schedule_shift") and config.number("flow_schedule_shift") != 0


def _loss(config: Options) -> Literal["l2", "huber", "smooth_l1"]:
    match config.text("loss_type"):
        case "huber":
            return "huber"
        case "smooth_l1":
            return "smooth_l1"
        case _:
            return "l2"


def _huber_schedule(config: Options) -> Literal["constant", "exponential", "snr"]:
    match config.text("huber_schedule"):
        case "constant":
            return "constant"
        case "exponential":
            return "exponential"
        case _:
            return "snr"


def _mask_probability(config: Options, backends: Sequence[Backend], findings: Findings) -> float:
    probability = _number(config, "masked_loss_probability")
    roles = {backend.role for backend in backends if backend.masks}
    if roles:
        if roles == {"eval"} and config.given("masked_loss_probability"):
            findings.warn(
                "masked_loss_probability acts only on the loss that is measured: no backend that "
                "is trained on has masks."
            )
        if probability == 0:
            findings.warn("masked_loss_probability 0: no mask is ever applied.")
        return probability
    warn_idle(
        config,
        ("masked_loss_probability",),
        findings,
        "where no backend has masks",
    )
    return 1.0


def _balance_weight(config: Options, findings: Findings) -> float:
    weight = config.number("hidream_load_balancing_loss_weight")
    if not config.flag("hidream_use_load_balancing_loss"):
        if weight:
            findings.warn(
                "hidream_load_balancing_loss_weight has no effect without "
                "hidream_use_load_balancing_loss."
            )
        return 0.0
    if weight == 0:
        findings.warn("hidream_use_load_balancing_loss has no effect at the weight 0.")
    if not is_full_rank(config) and not was_judged(config, "model_type"):
        findings.warn(
            "hidream_use_load_balancing_loss: an adapter leaves the experts' gates as they are, so "
            "balancing acts only through what comes before them; its effect is small."
        )
    return _BALANCE_WEIGHT if weight is None else weight


def _number(config: Options, name: str) -> float:
    value = config.number(name)
    assert value is not None, name
    return value
