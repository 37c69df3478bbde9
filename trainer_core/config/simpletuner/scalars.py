"""The parts of a plan that say how much is trained, and how weights are held."""

import secrets
from typing import Final

from trainer_core.config.plan import Precision, Quantization
from trainer_core.config.simpletuner.reading import Findings, Options

_ACCUMULATION_MAX: Final = 100_000
_ENCODERS: Final = (1, 2, 3, 4)


def is_full_rank(config: Options) -> bool:
    return config.text("model_type") == "full"


def uses_deepspeed(config: Options) -> bool:
    """Whether all weights are trained under DeepSpeed: asked for by its stage, or by several GPUs.

    A stage that was written and is wrong counts, so that what depends on it is judged as well.
    """
    asked = config.given("zero_stage") or was_judged(config, "zero_stage")
    return is_full_rank(config) and (asked or config.integer("world_size") > 1)


def was_judged(config: Options, name: str) -> bool:
    """Whether the option was written, and found wrong already."""
    return name in config.names and not config.given(name)


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
    encoders = [_quantization(config, f"text_encoder_{n}_precision") for n in _ENCODERS]
    if is_full_rank(config) and base != "no_change":
        message = "A quantised base cannot be trained: set it to no_change, or train an adapter."
        findings.problem(config.at("base_model_precision"), "conflict", message)
    if config.given("quantize_via") and base == "no_change":
        findings.warn("quantize_via has no effect: the base is not quantised.")
    return Precision(
        base=base,
        compute="fp32" if config.text("mixed_precision") == "no" else "bf16",
        text_encoder_1=encoders[0],
        text_encoder_2=encoders[1],
        text_encoder_3=encoders[2],
        text_encoder_4=encoders[3],
    )


def _quantization(config: Options, name: str) -> Quantization:
    return "int8-quanto" if config.text(name) == "int8-quanto" else "no_change"


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
    elif steps == 0 and not was_judged(config, "max_train_steps"):
        findings.problem(config.at("max_train_steps"), "missing", "max_train_steps is missing.")
    return max(1, steps)


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
