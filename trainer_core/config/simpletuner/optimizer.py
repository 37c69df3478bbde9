"""Options of the optimizer and of gradient clipping."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from trainer_core.config.plan import (
    UNSHARDED_OPTIMIZERS,
    Clip,
    ClipMethod,
    OptimizerName,
    OptimizerPlan,
)
from trainer_core.config.simpletuner.deepspeed import names_deepspeed, uses_deepspeed
from trainer_core.config.simpletuner.reading import Options, number_in
from trainer_core.config.simpletuner.verdicts import Option, Table, words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Optimizer:
    """One optimizer of SimpleTuner with its default values."""

    name: OptimizerName
    """Its name in the plan."""
    betas: tuple[float, float]
    weight_decay: float
    eps: float = 1e-8
    has_eps: bool = True
    """False for Lion and its variants."""
    reads_adam_options: bool = False
    """Whether ``adam_weight_decay`` and ``adam_epsilon`` act on it."""
    usual_rate: float | None = None
    """For an optimizer that takes ``learning_rate`` as a factor of its own estimate."""
    not_built: tuple[str, ...] = ()
    """Keys of ``optimizer_config`` that SimpleTuner has for it and this version has not."""

    @property
    def runs_on_deepspeed(self) -> bool:
        return self.name not in UNSHARDED_OPTIMIZERS


_ADAMW: Final = _Optimizer(
    name="adamw",
    betas=(0.9, 0.999),
    weight_decay=0.01,
    reads_adam_options=True,
    not_built=words("amsgrad maximize"),
)
_OPTIMIZERS: Final[Mapping[str, _Optimizer]] = {
    "optimi-lion": _Optimizer(
        name="optimi-lion",
        betas=(0.9, 0.99),
        weight_decay=0.0,
        has_eps=False,
        not_built=words("decouple_lr max_lr gradient_release"),
    ),
    "optimi-adamw": _Optimizer(
        name="optimi-adamw",
        betas=(0.9, 0.99),
        weight_decay=0.0,
        eps=1e-6,
        not_built=words("decouple_lr max_lr gradient_release"),
    ),
    "torch-adamw": _ADAMW,
    "bnb-lion8bit-paged": _Optimizer(
        name="bnb-lion8bit-paged",
        betas=(0.9, 0.99),
        weight_decay=0.0,
        has_eps=False,
        not_built=words("min_8bit_size percentile_clipping optim_bits"),
    ),
    "prodigy": _Optimizer(
        name="prodigy",
        betas=(0.9, 0.99),
        weight_decay=0.0,
        usual_rate=1.0,
        not_built=words(
            "beta3 d0 d_coef d_limiter prodigy_steps schedulefree_c use_speed use_bias_correction "
            "use_stableadamw use_cautious use_grams use_adopt use_orthograd use_focus use_muon_pp "
            "weight_decay_by_lr split_groups split_groups_mean factored factored_fp32 "
            "fused_back_pass"
        ),
    ),
    "adamw_bf16": replace(_ADAMW, eps=1e-6),
}
"""Name in SimpleTuner → optimizer. A new optimizer is one row here."""
_ON_DEEPSPEED: Final = [
    name for name, each in _OPTIMIZERS.items() if each.runs_on_deepspeed and name != "adamw_bf16"
]
"""Their names in SimpleTuner; adamw_bf16 is left out because it is torch-adamw."""
_NOT_BUILT: Final = words(
    "torch-adam torch-adamax torch-nadam torch-radam "
    "torch-sgd torch-rmsprop torch-adagrad torch-adadelta "
    "torch-asgd torch-sparseadam torch-adafactor ao-adamw8bit "
    "ao-adamw4bit ao-adamfp8 ao-adamwfp8 adamw_schedulefree "
    "adamw_schedulefree+aggressive adamw_schedulefree+no_kahan optimi-stableadamw "
    "optimi-adam optimi-radam optimi-ranger optimi-adan "
    "optimi-sgd soap muon bnb-adagrad "
    "bnb-adagrad8bit bnb-adam bnb-adam8bit bnb-adamw "
    "bnb-adamw8bit bnb-adamw-paged bnb-adamw8bit-paged bnb-lion "
    "bnb-lion8bit bnb-lion-paged bnb-ademamix "
    "bnb-ademamix8bit bnb-ademamix-paged bnb-ademamix8bit-paged "
    "sdnq-adamw sdnq-adamw+no_quant sdnq-adafactor sdnq-came "
    "sdnq-lion sdnq-muon sdnq-muon+quantized_matmul "
)
_IMPLEMENTATION_KEYS: Final = words(
    "foreach fused kahan_sum triton capturable differentiable is_paged block_wise "
    "stochastic_rounding"
)
"""Keys of ``optimizer_config`` that do not change what a step computes."""
_MOST_BETA: Final = 0.9999999
_LEAST_FACTOR: Final = 0.1
_SEPARATOR: Final = re.compile(r"[,;\s]+")


def _nearest_of(name: str) -> str:
    """The optimizer here that is most like one that is not built."""
    if "lion" in name:
        return "optimi-lion"
    return "optimi-adamw" if name.startswith("optimi") else "torch-adamw"


OPTIMIZER: Final = Table()
NAME: Final[Option[_Optimizer]] = OPTIMIZER.choice(
    "optimizer",
    _OPTIMIZERS,
    _OPTIMIZERS["adamw_bf16"],
    "adamw_bf16 is torch-adamw. With model_type full, on one GPU and in bf16, it trains weights "
    "and states in bf16, rounded stochastically; else both are fp32.",
    known=_NOT_BUILT,
    nearest={name: _nearest_of(name) for name in _NOT_BUILT},
)
_RATE: Final = OPTIMIZER.number(
    "learning_rate", 4e-7, "Learning rate after the warm-up; 1 by default with prodigy.", above=0
)
_BETA1: Final[Option[float | None]] = OPTIMIZER.number(
    "optimizer_beta1", None, "First beta.", at_least=0, at_most=_MOST_BETA
)
_BETA2: Final[Option[float | None]] = OPTIMIZER.number(
    "optimizer_beta2", None, "Second beta.", at_least=0, at_most=_MOST_BETA
)
_ADAM_DECAY: Final[Option[float | None]] = OPTIMIZER.number(
    "adam_weight_decay", None, "Weight decay of torch-adamw.", at_least=0
)
_ADAM_EPS: Final[Option[float | None]] = OPTIMIZER.number(
    "adam_epsilon", None, "eps of torch-adamw.", above=0, at_most=1
)
_SETTINGS: Final = OPTIMIZER.text(
    "optimizer_config", None, "beta1=…,beta2=…,weight_decay=…,eps=…, as the optimizer has them."
)
_CLIP_LIMIT: Final = OPTIMIZER.number(
    "max_grad_norm", 2.0, "Limit of clipping; 0 for none.", at_least=0
)
_CLIP_METHOD: Final[Option[ClipMethod]] = OPTIMIZER.choice(
    "grad_clip_method",
    ClipMethod,
    "value",
    "value clamps each element, norm scales the global norm; with DeepSpeed norm by default. "
    "previous_norm, Reverie's own, scales as the norm of the step before demands.",
)
OPTIMIZER.unlike(
    NAME,
    "adamw_bf16 keeps weights and states of adapters, and with DeepSpeed, in fp32; SimpleTuner "
    "keeps them in bf16, rounded stochastically.",
)
OPTIMIZER.unlike(_CLIP_LIMIT, "Acts on prodigy, too; SimpleTuner does not clip its gradients.")
_DEEPSPEED_BETA1: Final[Option[float | None]] = OPTIMIZER.number(
    "adam_beta1", None, "First beta with DeepSpeed.", at_least=0, at_most=_MOST_BETA
)
_DEEPSPEED_BETA2: Final[Option[float | None]] = OPTIMIZER.number(
    "adam_beta2", None, "Second beta with DeepSpeed.", at_least=0, at_most=_MOST_BETA
)
_PRODIGY_STEPS: Final = OPTIMIZER.integer(
    "prodigy_steps", 0, "Only 0 with prodigy; other optimizers do not read it.", at_least=0
)
OPTIMIZER.handled("gradient_precision", "Gradients of adapters are fp32.")
OPTIMIZER.handled(
    "fuse_optimizer optimizer_offload_gradients optimizer_cpu_offload_method",
    "Updates run in place on the accelerator; DeepSpeed shards what is large.",
)


def optimizer_of(config: Options) -> OptimizerPlan:
    """The optimizer, with its defaults for options that are not given."""
    optimizer = config[NAME]
    if not optimizer.runs_on_deepspeed and uses_deepspeed(config):
        message = (
            f"{optimizer.name} cannot be sharded by DeepSpeed: "
            f"{UNSHARDED_OPTIMIZERS[optimizer.name]}. Use {' or '.join(_ON_DEEPSPEED)}, or one "
            "GPU without zero_stage."
        )
        config.problem(NAME, "not_implemented", message)
    if not uses_deepspeed(config):
        config.idle(
            "without DeepSpeed, as in SimpleTuner; optimizer_beta1 and optimizer_beta2 act",
            _DEEPSPEED_BETA1,
            _DEEPSPEED_BETA2,
        )
    if optimizer.name != "prodigy":
        config.idle(f"on {optimizer.name}", _PRODIGY_STEPS)
    elif config[_PRODIGY_STEPS]:
        message = "prodigy_steps is not built in this version: leave it out."
        config.problem(_PRODIGY_STEPS, "not_implemented", message)
    if not optimizer.reads_adam_options:
        config.idle(f"on {optimizer.name}", _ADAM_DECAY, _ADAM_EPS)
    written = _written_settings(config, optimizer)
    return OptimizerPlan(
        name=optimizer.name,
        learning_rate=_learning_rate(config, optimizer),
        betas=(written.get("beta1", optimizer.betas[0]), written.get("beta2", optimizer.betas[1])),
        eps=written.get("eps", optimizer.eps),
        weight_decay=written.get("weight_decay", optimizer.weight_decay),
    )


def is_adamw_bf16(config: Options) -> bool:
    """Whether the optimizer is the one whose weights SimpleTuner keeps in bf16."""
    return config[NAME] is _OPTIMIZERS["adamw_bf16"]


def clips_by_norm(config: Options) -> bool:
    """Whether clipping needs the norm of all gradients of a step."""
    return config[_CLIP_METHOD] == "norm" and config[_CLIP_LIMIT] > 0


def written_clip_of(config: Options) -> Clip | None:
    """Clipping as the options say; None: none."""
    limit, method = config[_CLIP_LIMIT], config[_CLIP_METHOD]
    if uses_deepspeed(config) and not config.given(_CLIP_METHOD):
        method = "norm"
    elif names_deepspeed(config) and method == "value":
        config.differs(
            _CLIP_METHOD, "value acts; SimpleTuner's DeepSpeed clips the norm, if at all."
        )
    elif uses_deepspeed(config) and method == "previous_norm":
        message = "DeepSpeed has no previous_norm: set it to norm or value."
        config.problem(_CLIP_METHOD, "conflict", message)
    if not limit:
        config.idle("with max_grad_norm 0", _CLIP_METHOD)
        return None
    if config[NAME].name == "prodigy":
        config.differs(
            _CLIP_LIMIT,
            f"{limit:g} clips prodigy's gradients as well; SimpleTuner leaves them. Set it to 0 "
            "for none.",
        )
    return Clip(method=method, limit=limit)


def _learning_rate(config: Options, optimizer: _Optimizer) -> float:
    rate = config[_RATE]
    if not config.given(_RATE):
        rate = optimizer.usual_rate or rate
        config.handled(_RATE, f"is not given; it is {rate:g}.")
    elif optimizer.usual_rate is not None and rate < _LEAST_FACTOR:
        message = (
            f"{optimizer.name} finds its own step and takes learning_rate as a factor of it: set "
            f"it to {optimizer.usual_rate}, not {rate:g}."
        )
        config.problem(_RATE, "bad_value", message)
    return rate


def _written_settings(config: Options, optimizer: _Optimizer) -> Mapping[str, float]:
    """The given ones of ``beta1``, ``beta2``, ``weight_decay`` and ``eps``.

    Each has its own option and may also be in ``optimizer_config``. Two different values are a
    problem.
    """
    settings = {"beta1": config[_BETA1], "beta2": config[_BETA2]}
    if uses_deepspeed(config):
        of_deepspeed = {"beta1": config[_DEEPSPEED_BETA1], "beta2": config[_DEEPSPEED_BETA2]}
        settings = {key: own or of_deepspeed[key] for key, own in settings.items()}
    if optimizer.reads_adam_options:
        settings |= {"weight_decay": config[_ADAM_DECAY], "eps": config[_ADAM_EPS]}
    found = {key: value for key, value in settings.items() if value is not None}
    for key, value in _config_entries(config, optimizer).items():
        if found.setdefault(key, value) != value:
            message = f"optimizer_config gives {key} {value:g}, another option gives {found[key]:g}"
            config.problem(_SETTINGS, "conflict", f"{message}: keep one.")
    return found


def _config_entries(config: Options, optimizer: _Optimizer) -> Mapping[str, float]:
    """The entries of ``optimizer_config`` as numbers, without those that have a problem."""
    known = ["beta1", "beta2", "weight_decay", *(["eps"] if optimizer.has_eps else [])]
    entries: dict[str, float] = {}
    for key, text in _split_entries(config[_SETTINGS] or ""):
        parts = [part for part in _SEPARATOR.split(text.strip("()[] ")) if part]
        wanted = ("beta1", "beta2") if key == "betas" else (key,)
        if not set(wanted) <= set(known):
            _report_unknown_entry(key, known, optimizer, config)
        elif len(parts) != len(wanted) or any(number_in(part) is None for part in parts):
            kind = "two numbers" if key == "betas" else "a number"
            config.problem(_SETTINGS, "bad_value", f"optimizer_config: {key} has to be {kind}.")
        else:
            for single, part in zip(wanted, parts, strict=True):
                _add_entry(entries, single, number_in(part) or 0.0, config)
    return entries


def _report_unknown_entry(
    key: str, known: list[str], optimizer: _Optimizer, config: Options
) -> None:
    name = optimizer.name
    if key in _IMPLEMENTATION_KEYS:
        message = f"{key} has no effect: {name} has one way to compute here."
        config.notice("no_effect", _SETTINGS, message)
    elif key in optimizer.not_built:
        message = f"optimizer_config: {key} of {name} is not built in this version; leave it out."
        config.problem(_SETTINGS, "not_implemented", message)
    else:
        near = difflib.get_close_matches(key[:100], [*known, "betas"], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"here it takes betas, {', '.join(known)}."
        message = f"optimizer_config: {name} has no {key[:100] or 'option without a name'}; "
        config.problem(_SETTINGS, "unknown_option", message + hint)


def _add_entry(entries: dict[str, float], key: str, value: float, config: Options) -> None:
    wrong = {
        "beta1": not 0 <= value <= _MOST_BETA,
        "beta2": not 0 <= value <= _MOST_BETA,
        "weight_decay": value < 0,
        "eps": not 0 < value <= 1,
    }
    if wrong[key]:
        message = f"optimizer_config: {key} cannot be {value:g}."
        config.problem(_SETTINGS, "bad_value", message)
    elif entries.setdefault(key, value) != value:
        config.problem(_SETTINGS, "conflict", f"optimizer_config gives {key} twice.")


def _split_entries(text: str) -> list[tuple[str, str]]:
    """Key and value of each entry. A part without ``=`` continues the entry before it, as in
    ``betas=0.9,0.99``."""
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
