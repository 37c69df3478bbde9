"""The parts of a plan that say what a step does to the weights."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from trainer_core.config.plan import Clip, EmaPlan, OptimizerPlan, SchedulePlan
from trainer_core.config.simpletuner.reading import Findings, Options, number_in, warn_idle
from trainer_core.config.simpletuner.scalars import is_full_rank, uses_deepspeed
from trainer_core.config.simpletuner.verdicts import words

OptimizerName = Literal["optimi-lion", "adamw", "bnb-lion8bit-paged", "prodigy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Defaults:
    """What an optimizer has where nothing is written."""

    betas: tuple[float, float]
    weight_decay: float
    has_eps: bool
    """Lion and its kin have none."""


_OPTIMIZERS: Final[dict[OptimizerName, _Defaults]] = {
    "optimi-lion": _Defaults(betas=(0.9, 0.99), weight_decay=0.0, has_eps=False),
    "adamw": _Defaults(betas=(0.9, 0.999), weight_decay=0.01, has_eps=True),
    "bnb-lion8bit-paged": _Defaults(betas=(0.9, 0.99), weight_decay=0.0, has_eps=False),
    "prodigy": _Defaults(betas=(0.9, 0.99), weight_decay=0.0, has_eps=True),
}
_SETTINGS_WITHOUT_MEANING: Final = words(
    "foreach fused kahan_sum triton capturable differentiable is_paged block_wise "
    "stochastic_rounding"
)
"""Keys of optimizer_config for how a step is computed, not for what comes of it."""
_SETTINGS_LATER: Final[dict[OptimizerName, tuple[str, ...]]] = {
    "optimi-lion": words("decouple_lr max_lr gradient_release"),
    "adamw": words("amsgrad maximize"),
    "bnb-lion8bit-paged": words("min_8bit_size percentile_clipping optim_bits"),
    "prodigy": words(
        "beta3 d0 d_coef d_limiter prodigy_steps schedulefree_c use_speed use_bias_correction "
        "use_stableadamw use_cautious use_grams use_adopt use_orthograd use_focus use_muon_pp "
        "weight_decay_by_lr split_groups split_groups_mean factored factored_fp32 "
        "fused_back_pass"
    ),
}
"""Keys of optimizer_config that SimpleTuner's optimizer has, and that of this version has not."""
_WITH_DEEPSPEED: Final = ("optimi-lion", "adamw")
_EPS: Final = 1e-8
_BF16_EPS: Final = 1e-6
"""Of adamw_bf16, as SimpleTuner has it."""
_PRODIGY_RATE: Final = 1.0
_PRODIGY_LEAST_RATE: Final = 0.1
_MOST_BETA: Final = 0.9999999
_DEFAULT_STAGE: Final = 2
_SEPARATOR: Final = re.compile(r"[,;\s]+")

_EMA_OPTIONS: Final = (
    "ema_decay",
    "ema_warmup_steps",
    "ema_update_interval",
    "ema_device",
    "ema_cpu_only",
)


def optimizer_of(config: Options, findings: Findings) -> OptimizerPlan:
    name = _optimizer_name(config)
    defaults, eps = _OPTIMIZERS[name], _EPS
    if config.text("optimizer") == "adamw_bf16":
        eps = _BF16_EPS
        findings.warn("optimizer: adamw_bf16 is taken as torch-adamw with fp32 weights and states.")
    if name not in _WITH_DEEPSPEED and uses_deepspeed(config):
        message = (
            f"{name} is not built with DeepSpeed: use optimi-lion or torch-adamw, or one GPU "
            "without zero_stage."
        )
        findings.problem(config.at("optimizer"), "not_implemented", message)
    if name != "adamw":
        warn_idle(config, ("adam_weight_decay", "adam_epsilon"), findings, f"on {name}")
    written = _written_settings(config, name, findings)
    return OptimizerPlan(
        name=name,
        learning_rate=_learning_rate(config, name, findings),
        betas=(
            written.get("beta1", defaults.betas[0]),
            written.get("beta2", defaults.betas[1]),
        ),
        eps=written.get("eps", eps),
        weight_decay=written.get("weight_decay", defaults.weight_decay),
    )


def _optimizer_name(config: Options) -> OptimizerName:
    match config.text("optimizer"):
        case "optimi-lion":
            return "optimi-lion"
        case "bnb-lion8bit-paged":
            return "bnb-lion8bit-paged"
        case "prodigy":
            return "prodigy"
        case _:
            return "adamw"


def _learning_rate(config: Options, name: OptimizerName, findings: Findings) -> float:
    rate = config.number("learning_rate")
    assert rate is not None
    if not config.given("learning_rate"):
        rate = _PRODIGY_RATE if name == "prodigy" else rate
        findings.warn(f"learning_rate is not given; it is {rate:g}.")
    elif name == "prodigy" and rate < _PRODIGY_LEAST_RATE:
        message = (
            f"prodigy finds its own step and takes learning_rate as a factor of it: set it to 1.0, "
            f"not {rate:g}."
        )
        findings.problem(config.at("learning_rate"), "bad_value", message)
    return rate


def _written_settings(
    config: Options, name: OptimizerName, findings: Findings
) -> Mapping[str, float]:
    """``beta1``, ``beta2``, ``weight_decay``, ``eps`` as far as they are written, from options and
    from ``optimizer_config``; the two may not differ."""
    settings = {
        "beta1": config.number("optimizer_beta1"),
        "beta2": config.number("optimizer_beta2"),
        "weight_decay": config.number("adam_weight_decay") if name == "adamw" else None,
        "eps": config.number("adam_epsilon") if name == "adamw" else None,
    }
    found = {key: value for key, value in settings.items() if value is not None}
    for key, value in _config_entries(config, name, findings).items():
        if found.setdefault(key, value) != value:
            message = f"optimizer_config gives {key} {value:g}, another option gives {found[key]:g}"
            findings.problem(config.at("optimizer_config"), "conflict", f"{message}: keep one.")
    return found


def _config_entries(
    config: Options, name: OptimizerName, findings: Findings
) -> Mapping[str, float]:
    """``k=v,k=v`` as numbers; what is wrong is told and left out."""
    at = config.at("optimizer_config")
    known = ["beta1", "beta2", "weight_decay"]
    known += ["eps"] if _OPTIMIZERS[name].has_eps else []
    entries: dict[str, float] = {}
    for key, text in _split_entries(config.text("optimizer_config") or ""):
        parts = [part for part in _SEPARATOR.split(text.strip("()[] ")) if part]
        wanted = ("beta1", "beta2") if key == "betas" else (key,)
        if not set(wanted) <= set(known):
            if _told_as_known(key, name, config, findings):
                continue
            near = difflib.get_close_matches(key[:100], [*known, "betas"], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has betas, {', '.join(known)}."
            message = f"optimizer_config: {name} has no {key[:100] or 'option without a name'}; "
            findings.problem(at, "unknown_option", message + hint)
        elif len(parts) != len(wanted) or any(number_in(part) is None for part in parts):
            kind = "two numbers" if key == "betas" else "a number"
            findings.problem(at, "bad_value", f"optimizer_config: {key} has to be {kind}.")
        else:
            for single, part in zip(wanted, parts, strict=True):
                _add_entry(entries, single, number_in(part) or 0.0, at, findings)
    return entries


def _told_as_known(key: str, name: OptimizerName, config: Options, findings: Findings) -> bool:
    """Whether SimpleTuner has it for this optimizer; then what there is to say is said."""
    if key in _SETTINGS_WITHOUT_MEANING:
        findings.warn(f"optimizer_config: {key} has no effect: {name} has one way to compute here.")
        return True
    if key not in _SETTINGS_LATER[name]:
        return False
    message = f"optimizer_config: {key} of {name} is not built in this version; leave it out."
    findings.problem(config.at("optimizer_config"), "not_implemented", message)
    return True


def _add_entry(
    entries: dict[str, float], key: str, value: float, at: str, findings: Findings
) -> None:
    wrong = {
        "beta1": not 0 <= value <= _MOST_BETA,
        "beta2": not 0 <= value <= _MOST_BETA,
        "weight_decay": value < 0,
        "eps": not 0 < value <= 1,
    }
    if wrong[key]:
        message = f"optimizer_config: {key} cannot be {value:g}."
        findings.problem(at, "bad_value", message)
    elif entries.setdefault(key, value) != value:
        findings.problem(at, "conflict", f"optimizer_config gives {key} twice.")


def _split_entries(text: str) -> list[tuple[str, str]]:
    """A part without ``=`` goes on with the one before it: ``betas=0.9,0.99`` is one entry."""
    entries: list[tuple[str, str]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals:
            entries.append((key.strip(), value))
        elif entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]},{part}")
        elif part.strip():
            entries.append((part.strip(), ""))
    return entries


def clip_of(config: Options, findings: Findings) -> Clip | None:
    limit = config.number("max_grad_norm")
    value = config.text("grad_clip_method") == "value"
    if uses_deepspeed(config) and value:
        if config.given("grad_clip_method"):
            message = "DeepSpeed clips only by norm: set grad_clip_method to norm."
            findings.problem(config.at("grad_clip_method"), "conflict", message)
        value = False
    if not limit:
        warn_idle(config, ("grad_clip_method",), findings, "with max_grad_norm 0")
        return None
    if config.text("optimizer") == "prodigy":
        findings.warn(
            f"max_grad_norm {limit:g} clips prodigy's gradients as well; SimpleTuner leaves them. "
            "Set it to 0 for none."
        )
    return Clip(method="value" if value else "norm", limit=limit)


def schedule_of(config: Options, peak: float, steps: int, findings: Findings) -> SchedulePlan:
    """``peak``: the learning rate after the warm-up. ``steps``: of the whole run."""
    name = _schedule_name(config)
    warmup = config.integer("lr_warmup_steps")
    if name == "constant" and warmup > 0:
        findings.warn("lr_scheduler: constant with lr_warmup_steps is constant_with_warmup.")
        name = "constant_with_warmup"
    if name == "cosine" and warmup > 0:
        findings.warn(
            "lr_warmup_steps is warm-up with cosine too; SimpleTuner takes it as cosine's period, "
            "which is lr_period_steps here."
        )
    if warmup > steps:
        findings.warn(f"lr_warmup_steps {warmup} is longer than the run of {steps} steps.")
    elif warmup == steps and name in ("linear", "cosine", "polynomial"):
        findings.warn(f"lr_warmup_steps {warmup} is the whole run: {name} never falls.")
    if name != "cosine":
        warn_idle(config, ("lr_period_steps",), findings, f"with {name}")
    if name != "polynomial":
        warn_idle(config, ("lr_power",), findings, f"with {name}")
    end = config.number("lr_end") or 0.0
    if name not in ("cosine", "polynomial"):
        warn_idle(config, ("lr_end",), findings, f"with {name}")
        end = 0.0
    elif end >= peak:
        message = f"lr_end {end:g} has to be below learning_rate {peak:g}."
        findings.problem(config.at("lr_end"), "conflict", message)
    has_period = name == "cosine" and config.given("lr_period_steps")
    return SchedulePlan(
        name=name,
        warmup_steps=warmup,
        end=end,
        power=(config.number("lr_power") or 1.0) if name == "polynomial" else 1.0,
        period_steps=config.integer("lr_period_steps") if has_period else None,
    )


def _schedule_name(
    config: Options,
) -> Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]:
    match config.text("lr_scheduler"):
        case "constant":
            return "constant"
        case "linear":
            return "linear"
        case "cosine" | "cosine_with_warmup":
            return "cosine"
        case "polynomial":
            return "polynomial"
        case _:
            return "constant_with_warmup"


def ema_of(config: Options, steps: int, findings: Findings) -> EmaPlan | None:
    """None where no mean is kept. ``steps``: of the whole run."""
    if not config.flag("use_ema"):
        warn_idle(config, _EMA_OPTIONS, findings, "without use_ema")
        return None
    decay = config.number("ema_decay")
    assert decay is not None
    interval = config.integer("ema_update_interval")
    if interval > steps:
        message = f"The run has {steps} steps: no mean would ever be taken. Use at most that many."
        findings.problem(config.at("ema_update_interval"), "bad_value", message)
    if uses_deepspeed(config):
        message = (
            "A running mean is kept in one process only: set use_ema to false, or use one GPU "
        )
        at = config.at("use_ema")
        findings.problem(at, "not_implemented", message + "without zero_stage.")
    if config.flag("ema_cpu_only") and config.text("ema_device") == "accelerator":
        message = "ema_cpu_only and ema_device accelerator contradict each other."
        findings.problem(config.at("ema_cpu_only"), "conflict", message)
    return EmaPlan(
        decay=decay,
        warmup_steps=config.integer("ema_warmup_steps"),
        update_interval=interval,
    )


def ema_device_of(config: Options) -> Literal["cpu", "accelerator"]:
    on_accelerator = config.text("ema_device") == "accelerator" and not config.flag("ema_cpu_only")
    return "accelerator" if on_accelerator else "cpu"


def zero_stage_of(config: Options, findings: Findings) -> int | None:
    """None: one process without DeepSpeed."""
    if not is_full_rank(config):
        if config.given("zero_stage"):
            message = "zero_stage is for model_type full; leave it out."
            findings.problem(config.at("zero_stage"), "conflict", message)
        return None
    if config.given("zero_stage"):
        return config.integer("zero_stage")
    return _DEFAULT_STAGE if uses_deepspeed(config) else None
