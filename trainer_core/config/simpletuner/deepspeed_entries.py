"""The entries of DeepSpeed's own configuration, each compared with the options of the run.

An entry may be ``auto``, or say what the options say; an option that was not written has the value
of its entry. What would change the run is a problem.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.config.plan import (
    Clip,
    Compute,
    OptimizerPlan,
    SchedulePlan,
    ZeroOffload,
    ZeroStage,
)
from trainer_core.config.plan.problems import ProblemCode
from trainer_core.config.simpletuner.deepspeed_names import (
    BF16_IDLE,
    BF16_NOT_BUILT,
    IDLE,
    NOT_BUILT,
    OF_OPTIMIZER,
    OFFLOADING,
    ZERO_IDLE,
    ZERO_NOT_BUILT,
    ZERO_OFFLOADING,
    Off,
)
from trainer_core.config.simpletuner.deepspeed_text import in_ascii
from trainer_core.config.simpletuner.reading import number_in, requests_nothing
from trainer_core.config.simpletuner.verdicts import words

LARGEST_STAGE: Final = 3
_FILE: Final = "deepspeed_config_file"
"""Accelerate's name of another file, in place of all other entries."""
ADAMW: Final = ("torch-adamw", "adamw")
_LION: Final = ("optimi-lion", "optimi-lion")
OPTIMIZERS: Final = {
    **dict.fromkeys(words("adam adamw cpuadam fusedadam deepspeedcpuadam"), ADAMW),
    **dict.fromkeys(words("lion cpulion fusedlion"), _LION),
}
"""DeepSpeed's name in small letters → that of the option, and that in the plan.

Adam is AdamW: DeepSpeed decays its weights in the same way.
"""
SCHEDULES: Final = {"warmuplr": "constant_with_warmup", "warmupdecaylr": "linear"}
_NO_DECAY: Final = ("constant_with_warmup", "constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What the options say."""

    stage: ZeroStage | None
    offload: ZeroOffload
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    clip: Clip | None
    compute: Compute
    optimizer: OptimizerPlan
    schedule: SchedulePlan
    steps: int | None
    """None: the length is in epochs."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """An entry that would change the run, or that is not known."""

    code: ProblemCode
    message: str


@dataclass(frozen=True, slots=True)
class Idle:
    """An entry that changes nothing here."""

    name: str


@dataclass(frozen=True, slots=True)
class Unlike:
    """What the run does differently from SimpleTuner with this configuration."""

    message: str


Finding = Wrong | Idle | Unlike


def findings_of(content: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    """What is to be told of each entry; nothing of one that is ``auto`` or says the same."""
    samples = run.micro_batch_size * run.accumulation_steps * run.world_size
    equal = {
        "train_micro_batch_size_per_gpu": ("train_batch_size", run.micro_batch_size),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", run.accumulation_steps),
        "train_batch_size": (
            "train_batch_size times gradient_accumulation_steps times num_processes",
            samples,
        ),
        "gradient_clipping": ("max_grad_norm", run.clip.limit if run.clip else 0.0),
        "zero_stage": ("zero_stage", run.stage),
    }
    parts = {
        "zero_optimization": _zero,
        "bf16": _bf16,
        "bfloat16": _bf16,
        "fp16": _fp16,
        "amp": _fp16,
        "optimizer": _optimizer,
        "scheduler": _scheduler,
    }
    known = (*equal, *parts, *OFFLOADING, *IDLE, *NOT_BUILT)
    for key, value in content.items():
        if is_auto(value):
            continue
        section = section_of(content, key)
        if key == "zero_stage":
            yield from _stage(key, value, run.stage)
        elif key in equal:
            yield from _compared(key, value, *equal[key])
        elif key in parts and section is not None:
            yield from parts[key](key, section, run)
        elif key in parts:
            yield Wrong("bad_value", f"{key} has to be an object, not {shown(value)}.")
        elif key in OFFLOADING:
            yield from _offloading(key, value, run)
        elif key == _FILE:
            yield Wrong("not_implemented", f"name that file as deepspeed_config itself, not {key}.")
        else:
            yield from _unlike_any_option(key, value, IDLE, NOT_BUILT, known)
    yield from _left_to_deepspeed(content, run)


def is_auto(value: object) -> bool:
    """Whether an entry leaves its value to the run."""
    return value is None or (isinstance(value, str) and value.strip().lower() == "auto")


def section_of(content: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """An entry with entries of its own; None where it has none.

    An optimizer that is a text is its type, as in SimpleTuner.
    """
    value = content.get(key)
    if key == "optimizer" and isinstance(value, str):
        return {"type": value}
    return value if isinstance(value, Mapping) else None


def kind_of(section: Mapping[str, Any]) -> str:
    """The type of an optimizer or a scheduler as written; empty where it has none."""
    kind = section.get("type", section.get("name"))
    return "" if is_auto(kind) else str(kind).strip()


def _unlike_any_option(
    key: str,
    value: object,
    idle: tuple[str, ...],
    not_built: Off,
    known: tuple[str, ...],
    *,
    at: str = "",
) -> Iterator[Finding]:
    """What is to be told of an entry that no option of the run is like; ``at``: what it is in."""
    if key in idle:
        yield Idle(_path(at, key))
    elif key not in not_built:
        yield _unknown(at, key, known)
    elif not _requests_nothing(value, not_built[key]):
        yield Wrong("not_implemented", f"{_path(at, key)} is not built. Take it out.")


def _requests_nothing(value: Any, off: tuple[str | int, ...]) -> bool:
    if isinstance(value, Mapping) and value.get("enabled") is False:
        return True
    return requests_nothing(value, off)


def _zero(at: str, entries: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    known = ("stage", *ZERO_OFFLOADING, *ZERO_IDLE, *ZERO_NOT_BUILT)
    for key, value in entries.items():
        name = f"{at}.{key}"
        if is_auto(value):
            continue
        if key == "stage":
            yield from _stage(name, value, run.stage)
        elif key in ZERO_OFFLOADING:
            yield from _offloading(name, value, run)
        else:
            yield from _unlike_any_option(key, value, ZERO_IDLE, ZERO_NOT_BUILT, known, at=at)


def _stage(name: str, value: object, ours: ZeroStage | None) -> Iterator[Finding]:
    number = number_in(value) if isinstance(value, str) else value
    if isinstance(number, bool) or number not in range(LARGEST_STAGE + 1):
        yield Wrong("bad_value", f"{name} has to be 0, 1, 2 or 3, not {shown(value)}.")
    else:
        yield from _compared(name, value, "zero_stage", ours)


def offload_device(value: Any) -> str:
    """Where an entry offloads to, in small letters; ``none``: nowhere."""
    device: Any = value.get("device") if isinstance(value, Mapping) else value
    if is_auto(device) or requests_nothing(device, ()):
        return "none"
    return "cpu" if device is True else str(device).strip().lower()


def _offloading(name: str, value: Any, run: Resolved) -> Iterator[Finding]:
    device = offload_device(value)
    settings = value if isinstance(value, Mapping) and device != "none" else {}
    if name.rpartition(".")[2] not in OF_OPTIMIZER:
        if device != "none":
            message = "weights stay on the GPUs, which share them by zero_stage 3. Take it out."
            yield Wrong("not_implemented", f"{name} is not built: {message}")
    elif device == "nvme":
        message = f"{name} on nvme is not built: DeepSpeed compiles its async_io at run time. "
        yield Wrong("not_implemented", f"{message}Set it to cpu.")
    elif device not in ("none", "cpu"):
        yield Wrong("bad_value", f"{name} has to be none or cpu, not {shown(device)}.")
    elif (device == "cpu") != (run.offload == "cpu"):
        yield Wrong("conflict", _differs(name, device, "zero_offload", run.offload))
    for setting, usual in (("ratio", 1), ("super_offload", False)):
        if settings.get(setting, usual) != usual:
            yield Wrong("not_implemented", f"{name}.{setting} is not built. Take it out.")


def _bf16(at: str, entries: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    for key, value in entries.items():
        name = f"{at}.{key}"
        if is_auto(value):
            continue
        if key != "enabled":
            known = ("enabled", *BF16_IDLE, *BF16_NOT_BUILT)
            yield from _unlike_any_option(key, value, BF16_IDLE, BF16_NOT_BUILT, known, at=at)
        elif not isinstance(value, bool):
            yield Wrong("bad_value", f"{name} has to be true or false.")
        elif value != (run.compute == "bf16"):
            yield Wrong("conflict", _differs(name, value, "mixed_precision", run.compute))


def _fp16(at: str, entries: Mapping[str, Any], _run: Resolved) -> Iterator[Finding]:
    enabled = entries.get("enabled")
    if not is_auto(enabled) and not requests_nothing(enabled, ()):
        message = f"{at} is not built: set mixed_precision to bf16, and take {at} out."
        yield Wrong("not_implemented", message)
    elif set(entries) - {"enabled"}:
        yield Idle(at)


def _optimizer(at: str, entries: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    optimizer = run.optimizer
    params: dict[str, tuple[str, Any]] = {
        "lr": ("learning_rate", optimizer.learning_rate),
        "betas": ("betas of the optimizer", list(optimizer.betas)),
        "eps": ("eps of the optimizer", optimizer.eps),
        "weight_decay": ("weight_decay of the optimizer", optimizer.weight_decay),
        "adam_w_mode": ("AdamW's own weight decay", True),
    }
    kind = kind_of(entries)
    ours = OPTIMIZERS.get(kind.lower())
    if kind and ours is None:
        names = " or ".join(option for option, _ in (ADAMW, _LION))
        message = f"{at}.type {shown(kind)} is not built: take {at} out, and set optimizer to "
        yield Wrong("not_implemented", f"{message}{names}.")
    elif ours is not None and ours[1] != optimizer.name:
        yield Wrong("conflict", _differs(f"{at}.type", kind, "optimizer", optimizer.name))
    idle = words("bias_correction torch_adam fused")
    yield from _params(at, entries, ("type", "name", "legacy_fusion"), params, idle)


def _scheduler(at: str, entries: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    schedule, steps = run.schedule, run.steps
    params: dict[str, tuple[str, Any]] = {
        "warmup_min_lr": ("the start of the warm-up", 0.0),
        "warmup_max_lr": ("learning_rate", run.optimizer.learning_rate),
        "warmup_num_steps": ("lr_warmup_steps", schedule.warmup_steps),
        "total_num_steps": ("max_train_steps", "not given" if steps is None else steps),
    }
    kind = kind_of(entries)
    ours = SCHEDULES.get(kind.lower())
    if kind and ours is None:
        message = f"{at}.type {shown(kind)} is not built: take {at} out, and set lr_scheduler."
        yield Wrong("not_implemented", message)
    elif ours is not None and ours != schedule.name:
        yield Wrong("conflict", _differs(f"{at}.type", kind, "lr_scheduler", schedule.name))
    yield from _params(at, entries, ("type",), params, ("warmup_type",))


def _left_to_deepspeed(content: Mapping[str, Any], run: Resolved) -> Iterator[Finding]:
    """What SimpleTuner leaves to DeepSpeed and the options say here.

    Source: ``prepare_model_for_deepspeed`` in SimpleTuner 4.10.1, and DeepSpeed's ``WarmupLR``.
    """
    clip = f"max_grad_norm {run.clip.limit:g}" if run.clip else None
    optimizer = None if run.optimizer.name == "adamw" else f"optimizer {run.optimizer.name}"
    schedule = None if run.schedule.name in _NO_DECAY else f"lr_scheduler {run.schedule.name}"
    for entry, option, instead in (
        ("gradient_clipping", clip, "does not clip"),
        ("optimizer", optimizer, "takes AdamW"),
        ("scheduler", schedule, "takes WarmupLR"),
    ):
        if option is not None and is_auto(content.get(entry)):
            yield Unlike(f"without {entry} in it, {option} acts; SimpleTuner {instead} then.")
    warmup = section_of(section_of(content, "scheduler") or {}, "params") or {}
    if run.schedule.warmup_steps > 0 and warmup.get("warmup_type") != "linear":
        yield Unlike(
            "the learning rate rises in a line; DeepSpeed's follows the logarithm of the step, "
            "unless warmup_type is linear."
        )


def _params(
    at: str,
    entries: Mapping[str, Any],
    named: tuple[str, ...],
    params: Mapping[str, tuple[str, Any]],
    idle: tuple[str, ...],
) -> Iterator[Finding]:
    """Compare ``params`` of an optimizer or a scheduler.

    ``named``: its other entries; ``idle``: those in ``params`` that need no line here.
    """
    for key in entries:
        if key not in (*named, "params"):
            yield _unknown(at, key, (*named, "params"))
    written = entries.get("params") or {}
    if not isinstance(written, Mapping):
        yield Wrong("bad_value", f"{at}.params has to be an object, not {shown(written)}.")
        return
    for key, value in written.items():
        if is_auto(value) or key in idle:
            continue
        if key in params:
            yield from _compared(f"{at}.params.{key}", value, *params[key])
        else:
            yield _unknown(f"{at}.params", key, tuple(params))


def _compared(name: str, value: object, option: str, ours: object) -> Iterator[Finding]:
    if isinstance(ours, int | float) and not isinstance(ours, bool) and not _is_number(value):
        yield Wrong("bad_value", f"{name} has to be a number, not {shown(value)}.")
    elif not _are_equal(value, ours):
        yield Wrong("conflict", _differs(name, value, option, ours))


def _is_number(value: object) -> bool:
    number = number_in(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return abs(number) < math.inf  # NaN is not


def _are_equal(value: object, ours: object) -> bool:
    """Whether two values are the same; a number may be written as text."""
    if isinstance(value, list) and isinstance(ours, list):
        return len(value) == len(ours) and all(map(_are_equal, value, ours))
    if isinstance(value, str) and not isinstance(ours, str):
        number = number_in(value)
        return number is not None and number == ours
    return isinstance(value, bool) == isinstance(ours, bool) and value == ours


def _differs(name: str, value: object, option: str, ours: object) -> str:
    return (
        f"{name} is {shown(value)} there, and {option} is {shown(ours)}: make them equal, or "
        "leave one out."
    )


def _unknown(at: str, key: str, known: tuple[str, ...]) -> Wrong:
    near = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else " Take it out."
    return Wrong("unknown_option", f"{_path(at, key)} is not read here.{hint}")


def _path(at: str, key: str) -> str:
    """An entry with those that it is in, for a message; ``at`` empty: it is in none."""
    return f"{at}.{in_ascii(key)}" if at else in_ascii(key)


def shown(value: object) -> str:
    """A value of the configuration for a message: short, and in ASCII."""
    return in_ascii(str(value).lower() if isinstance(value, bool) else str(value))
