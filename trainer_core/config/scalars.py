"""The parts of a plan that come from single options of ``config.json``."""

import math
import re
import secrets
from typing import Final, Literal

from trainer_core.config.plan import (
    Clip,
    Objective,
    Operation,
    OptimizerPlan,
    Precision,
    Publication,
    Quantization,
    SchedulePlan,
    SigmaLaw,
)
from trainer_core.config.reading import Findings, Options

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_RESOLUTION: Final = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
_SAMPLE_MULTIPLE_PX: Final = 16
_MIN_SHIFT: Final = 1e-3
_MAX_SAMPLE_STEPS: Final = 200
_ACCUMULATION_MAX: Final = 100_000


def is_full_rank(config: Options) -> bool:
    return config.text("model_type") == "full"


def seed_of(config: Options, findings: Findings) -> int:
    """The seed; 0 and -1 ask for a random one, which the plan then holds."""
    seed = config.integer("seed")
    if seed > 0:
        return seed
    drawn = secrets.randbelow(2**31 - 1) + 1
    findings.warn(f"seed {seed} asks for a random seed: {drawn} was drawn and is kept.")
    return drawn


def precision_of(config: Options, findings: Findings) -> Precision:
    base = _quantization(config, "base_model_precision")
    if is_full_rank(config) and base != "no_change":
        message = "A quantised base cannot be trained: set it to no_change, or train an adapter."
        findings.problem(config.at("base_model_precision"), "conflict", message)
    return Precision(
        base=base,
        compute="fp32" if config.text("mixed_precision") == "no" else "bf16",
        text_encoder_1="no_change",
        text_encoder_2="no_change",
        text_encoder_3=_quantization(config, "text_encoder_3_precision"),
        text_encoder_4=_quantization(config, "text_encoder_4_precision"),
    )


def _quantization(config: Options, name: str) -> Quantization:
    return "int8-quanto" if config.text(name) == "int8-quanto" else "no_change"


def objective_of(config: Options, findings: Findings) -> Objective:
    shift = config.number("flow_schedule_shift") or 1.0  # 0 asks for none, and 1 changes nothing
    if shift < _MIN_SHIFT:
        message = f"flow_schedule_shift has to be 0, or at least {_MIN_SHIFT}."
        findings.problem(config.at("flow_schedule_shift"), "bad_value", message)
    return Objective(
        sigma=SigmaLaw(
            name="sigmoid",
            sigmoid_scale=config.number("flow_sigmoid_scale") or 1.0,
            beta_alpha=2.0,
            beta_beta=2.0,
            values=(),
            order="random",
        ),
        shift=shift,
        auto_shift=False,
        loss="l2",
        huber_c=0.1,
        huber_schedule="snr",
        masked_loss_probability=1.0,
        balance_weight=0.0,
        pad_compat=False,
    )


def optimizer_of(config: Options, findings: Findings) -> OptimizerPlan:
    written = config.text("optimizer")
    learning_rate = config.number("learning_rate")
    assert learning_rate is not None
    is_lion = written == "optimi-lion"
    beta1, beta2 = config.number("optimizer_beta1"), config.number("optimizer_beta2")
    decay = config.number("adam_weight_decay")
    if written == "adamw_bf16":
        findings.warn("optimizer: adamw_bf16 is taken as torch-adamw with fp32 weights and states.")
    if not config.given("learning_rate"):
        findings.warn(f"learning_rate is not given; it is {learning_rate:g}.")
    if is_lion and decay:
        findings.warn("adam_weight_decay has no effect on optimi-lion.")
    return OptimizerPlan(
        name="optimi-lion" if is_lion else "adamw",
        learning_rate=learning_rate,
        betas=(
            0.9 if beta1 is None else beta1,
            (0.99 if is_lion else 0.999) if beta2 is None else beta2,
        ),
        eps=1e-8,
        weight_decay=0.0 if is_lion else (0.01 if decay is None else decay),
    )


def schedule_of(config: Options, findings: Findings) -> SchedulePlan:
    warmup = config.integer("lr_warmup_steps")
    name: Literal["constant", "constant_with_warmup"] = "constant_with_warmup"
    if config.text("lr_scheduler") == "constant":
        if warmup == 0:
            name = "constant"
        else:
            findings.warn("lr_scheduler: constant with lr_warmup_steps is constant_with_warmup.")
    return SchedulePlan(name=name, warmup_steps=warmup, end=0.0, power=1.0, period_steps=None)


def clip_of(config: Options, findings: Findings) -> Clip | None:
    limit = config.number("max_grad_norm")
    value = config.text("grad_clip_method") == "value"
    if is_full_rank(config) and value:
        if config.given("grad_clip_method"):
            message = "DeepSpeed clips only by norm: set grad_clip_method to norm."
            findings.problem(config.at("grad_clip_method"), "conflict", message)
        value = False
    return Clip(method="value" if value else "norm", limit=limit) if limit else None


def steps_of(config: Options, findings: Findings) -> int:
    """``max_train_steps``; 1 stands in where there is a problem."""
    steps = config.integer("max_train_steps") if config.given("max_train_steps") else 0
    if config.integer("num_train_epochs") > 0:
        at = config.at("num_train_epochs")
        if steps > 0:
            message = "Give max_train_steps or num_train_epochs, not both; set the epochs to 0."
            findings.problem(at, "conflict", message)
        else:
            message = "A length in epochs is not built in this version: set it to 0 and give "
            findings.problem(at, "not_implemented", message + "max_train_steps.")
    elif steps == 0 and not _was_judged(config, "max_train_steps"):
        findings.problem(config.at("max_train_steps"), "missing", "max_train_steps is missing.")
    return max(1, steps)


def _was_judged(config: Options, name: str) -> bool:
    """Whether the option was written, and found wrong already."""
    return name in config.names and not config.given(name)


def accumulation_of(config: Options, findings: Findings) -> int:
    steps = config.integer("gradient_accumulation_steps")
    if steps == 0:
        findings.warn("gradient_accumulation_steps 0 is taken as 1.")
    if steps > _ACCUMULATION_MAX:
        at = config.at("gradient_accumulation_steps")
        findings.problem(
            at, "bad_value", f"gradient_accumulation_steps is at most {_ACCUMULATION_MAX}."
        )
    return max(1, steps)


def world_size_of(config: Options, findings: Findings) -> int:
    size = config.integer("world_size")
    if size > 1 and not is_full_rank(config):
        message = "An adapter trains on one GPU in this version: set it to 1."
        findings.problem(config.at("world_size"), "not_implemented", message)
    return size


def operation_of(
    config: Options, max_area_px: int, folders: dict[str, str], findings: Findings
) -> Operation:
    width_px, height_px = _sample_size_px(config, max_area_px, findings)
    return Operation(
        checkpoint_step_interval=config.integer("checkpoint_step_interval"),
        checkpoints_total_limit=config.integer("checkpoints_total_limit"),
        gradient_checkpointing=config.flag("gradient_checkpointing"),
        gradient_checkpointing_interval=1,
        device=_device(config),
        quantize_via="accelerator",
        zero_stage=_zero_stage(config, findings),
        ema_device="accelerator",
        resume_from=_resume_from(config, findings),
        tracker_project_name="reverie",
        tracker_run_name="",
        output_dir=config.text("output_dir"),
        data_dirs=folders,
        sample_prompt=str(config.deferred.get("validation_prompt", "")),
        sample_negative_prompt=str(config.deferred.get("validation_negative_prompt", "")),
        sample_steps=_sample_steps(config, findings),
        sample_guidance=_deferred_number(config, "validation_guidance", 5.0),
        sample_width_px=width_px,
        sample_height_px=height_px,
        sample_seed=int(_deferred_number(config, "validation_seed", 42)),
        publication=_publication(config, findings),
    )


def _device(config: Options) -> Literal["auto", "cpu", "cuda"]:
    match config.text("device"):
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case _:
            return "auto"


def _zero_stage(config: Options, findings: Findings) -> int | None:
    if is_full_rank(config):
        return config.integer("zero_stage")
    if config.given("zero_stage"):
        message = "zero_stage is for model_type full; leave it out."
        findings.problem(config.at("zero_stage"), "conflict", message)
    return None


def _resume_from(config: Options, findings: Findings) -> str:
    wish = config.text("resume_from_checkpoint") or ""
    if wish not in ("latest", "", "none"):
        message = "Only latest (or empty, to start afresh): a run resumes from its own checkpoints."
        findings.problem(config.at("resume_from_checkpoint"), "refused", message)
    return "latest" if wish == "latest" else ""


def _publication(config: Options, findings: Findings) -> Publication:
    hub_model_id = config.text("hub_model_id")
    private = config.flag("model_card_private")
    if not config.flag("push_to_hub"):
        if hub_model_id:
            findings.warn("hub_model_id has no effect without push_to_hub.")
        return Publication(private=private)
    if not hub_model_id:
        findings.problem(config.at("hub_model_id"), "missing", "push_to_hub needs hub_model_id.")
    elif not _HUB_ID.fullmatch(hub_model_id):
        message = "hub_model_id has to be a name, or owner/name."
        findings.problem(config.at("hub_model_id"), "bad_value", message)
    return Publication(hub_model_id=hub_model_id, private=private)


def _deferred_number(config: Options, name: str, default: float) -> float:
    value = config.deferred.get(name, default)
    assert isinstance(value, int | float), name
    return float(value)


def _sample_steps(config: Options, findings: Findings) -> int:
    name = "validation_num_inference_steps"
    steps = int(_deferred_number(config, name, 30))
    if steps > _MAX_SAMPLE_STEPS:
        findings.problem(config.at(name), "bad_value", f"{name} is at most {_MAX_SAMPLE_STEPS}.")
    return steps


def _sample_size_px(config: Options, max_area_px: int, findings: Findings) -> tuple[int, int]:
    """Width and height of the sample image: multiples of 16, within what the base model takes."""
    written = str(config.deferred.get("validation_resolution", 1024))
    first, *others = (part.strip() for part in written.lower().split(","))
    found = _RESOLUTION.fullmatch(first)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (width and height):
        message = "validation_resolution has to be a number or WIDTHxHEIGHT, such as 1024x768."
        findings.problem(config.at("validation_resolution"), "bad_value", message)
        return 1024, 1024
    if others:
        findings.warn(f"validation_resolution: the sample image has the first size, {first}.")
    # Sides first: a side that is raised afterwards would leave what the model takes.
    longest = max_area_px // _SAMPLE_MULTIPLE_PX
    width = min(max(width, _SAMPLE_MULTIPLE_PX), longest)
    height = min(max(height, _SAMPLE_MULTIPLE_PX), longest)
    shrink = min(1.0, math.sqrt(max_area_px / (width * height)))
    if shrink < 1:
        findings.warn(f"validation_resolution {first} is more than the base model takes: lowered.")
    return _sample_side(width * shrink), _sample_side(height * shrink)


def _sample_side(side_px: float) -> int:
    return max(1, int(side_px / _SAMPLE_MULTIPLE_PX)) * _SAMPLE_MULTIPLE_PX
