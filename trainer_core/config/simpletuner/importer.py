"""SimpleTuner's files in, a plan out; or everything that is wrong with them at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.known import FLAVOURS, PUBLISHED
from trainer_core.base_models.resolve import Listed, NotFound, resolve
from trainer_core.config.plan import Base, Identity, LokrAdapter, LoraAdapter, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.config.simpletuner import optimization, scalars
from trainer_core.config.simpletuner.adapter import import_adapter, import_lora
from trainer_core.config.simpletuner.backends import import_backends
from trainer_core.config.simpletuner.objective import objective_of
from trainer_core.config.simpletuner.operation import operation_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.config.simpletuner.reading import (
    Findings,
    Options,
    Source,
    escaped,
    read_options,
    warn_idle,
)

_REAL_MAX_AREA_PX: Final = 1024 * 1024
"""What HiDream-I1 takes; stands in where the base model is not known, to find further problems."""
_LORA_OPTIONS: Final = (
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_init_type",
    "lora_format",
    "peft_lora_target_modules",
)
_PROMPTS: Final = ("validation_prompt", "validation_negative_prompt")
_MAX_TOKENS_NAMED: Final = 5
_USED_FOR_THE_SAMPLE: Final = frozenset(
    {
        "validation_prompt",
        "validation_negative_prompt",
        "validation_num_inference_steps",
        "validation_guidance",
        "validation_resolution",
        "validation_seed",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A plan, and what the tenant should know about how it was read."""

    plan: Plan
    warnings: tuple[str, ...]


def import_run(
    *,
    config: Mapping[str, JsonValue],
    lycoris_config: Mapping[str, JsonValue] | None,
    data_backends: Sequence[JsonValue],
    prompt_library: Mapping[str, JsonValue] | None,
    base_models: Mapping[str, BaseModel],
    source: Source,
) -> Imported:
    """Resolve the contents of ``config.json`` and the files beside it.

    Args:
        config: keys with or without leading dashes; numbers and booleans may be text.
        lycoris_config: needed where an adapter is trained.
        data_backends: the list in ``multidatabackend.json``.
        prompt_library: nickname → prompt.
        base_models: name → base model: the operator's list, or in a local run the one model that
            the caller resolved ``base_name_of`` the options to.
        source: over ``http`` paths are not taken.

    Raises:
        PlanError: with every problem that was found; pointers start at ``/config``,
            ``/lycoris_config``, ``/data_backends`` or ``/prompt_library``.
    """
    findings = Findings()
    request = {
        "config": config,
        "lycoris_config": lycoris_config,
        "data_backends": data_backends,
        "prompt_library": prompt_library,
    }
    for pointer in _unstorable(request, "", 0):
        findings.problem(pointer, "bad_value", "It has a character that cannot be stored.")
    if findings.problems:  # such text would break every message that quotes it
        raise PlanError(findings.problems)
    options = read_options(config, OPTIONS, "/config", findings, source)
    plan = _plan(
        options,
        lycoris_config=lycoris_config,
        data_backends=data_backends,
        prompt_library=prompt_library,
        base_models=base_models,
        findings=findings,
        source=source,
    )
    if plan is None:
        raise PlanError(findings.problems, findings.warnings)
    return Imported(plan=plan, warnings=tuple(findings.warnings))


def _plan(
    config: Options,
    *,
    lycoris_config: Mapping[str, JsonValue] | None,
    data_backends: Sequence[JsonValue],
    prompt_library: Mapping[str, JsonValue] | None,
    base_models: Mapping[str, BaseModel],
    findings: Findings,
    source: Source,
) -> Plan | None:
    for name in ("model_family", "model_type"):
        if name not in config.names:
            findings.problem(
                config.at(name), "missing", f"{name} is missing. {OPTIONS[name].reason}"
            )
    base = _base(config, base_models, findings, source)
    max_area_px = _REAL_MAX_AREA_PX if base is None else base.max_area_px
    adapter = _adapter(config, lycoris_config, base, findings, source)
    backends, folders = import_backends(data_backends, config, max_area_px, findings, source)
    seed, precision = scalars.seed_of(config, findings), scalars.precision_of(config, findings)
    objective = objective_of(config, backends, findings)
    steps = scalars.steps_of(config, findings)
    optimizer = optimization.optimizer_of(config, findings)
    schedule = optimization.schedule_of(config, optimizer.learning_rate, steps, findings)
    clip, ema = optimization.clip_of(config, findings), optimization.ema_of(config, steps, findings)
    accumulation = scalars.accumulation_of(config, findings)
    world_size = scalars.world_size_of(config, findings)
    operation = operation_of(config, max_area_px, folders, findings, source)
    _deferred(config, prompt_library, findings)
    if findings.problems or base is None:
        return None
    identity = Identity(
        base=Base(name=base.name, digest=base.digest),
        seed=seed,
        model_type="full" if adapter is None else adapter.kind,
        adapter=adapter,
        objective=objective,
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        clip=clip,
        ema=ema,
        micro_batch_size=config.integer("train_batch_size"),
        accumulation_steps=accumulation,
        world_size=world_size,
        max_train_steps=steps,
        caption_dropout_probability=config.number("caption_dropout_probability") or 0.0,
        backends=backends,
    )
    return Plan(identity=identity, operation=operation)


def base_name_of(config: Options) -> str:
    """Name of the base model that the options ask for."""
    written = config.text("pretrained_model_name_or_path")
    return written or FLAVOURS[config.text("model_flavour") or "full"]


def _base(
    config: Options, base_models: Mapping[str, BaseModel], findings: Findings, source: Source
) -> BaseModel | None:
    """The model on the list; None, with a problem, where it has none of that name."""
    is_named = bool(config.text("pretrained_model_name_or_path"))
    if is_named:
        warn_idle(config, ("model_flavour",), findings, "beside pretrained_model_name_or_path")
    name = base_name_of(config)
    at = config.at("pretrained_model_name_or_path" if is_named else "model_flavour")
    match resolve(name, base_models, folders=()):
        case Listed(model):
            return model
        case NotFound(is_path=True) if source == "http":
            message = "A path is not taken as a base model; give the name of one on the list."
            findings.problem(at, "refused", message)
        case _:  # what else a name can mean is nothing that a run could use here
            listed = ", ".join(sorted(base_models)) or "nothing"
            message = f"{name} is not on this operator's list of base models, which has {listed}."
            findings.problem(at, "bad_value", message)
    return None


def _adapter(
    config: Options,
    lycoris_config: Mapping[str, JsonValue] | None,
    base: BaseModel | None,
    findings: Findings,
    source: Source,
) -> LokrAdapter | LoraAdapter | None:
    if scalars.is_full_rank(config):
        _say_idle(config, lycoris_config, "model_type full", findings)
        warn_idle(config, ("lora_type", *_LORA_OPTIONS), findings, "with model_type full")
        return None
    # Where one of these is wrong, what else is wrong is found on the published shape.
    linears = hidream_linears(PUBLISHED.transformer if base is None else base.transformer_config)
    if scalars.was_judged(config, "lora_type"):
        if lycoris_config is not None:
            import_adapter(lycoris_config, linears, None, findings, source)
        return None
    if config.text("lora_type") == "standard":
        if config.text("model_type") is None:
            import_lora(config, linears, findings)
            return None
        by_default = "" if config.given("lora_type") else " (the default)"
        _say_idle(config, lycoris_config, f"lora_type standard{by_default}", findings)
        return import_lora(config, linears, findings)
    warn_idle(config, _LORA_OPTIONS, findings, "with lora_type lycoris")
    if lycoris_config is None:
        at = config.at("lycoris_config") if source == "local" else "/lycoris_config"
        findings.problem(at, "missing", "lora_type lycoris needs a LyCORIS config.")
        return None
    norm = config.number("init_lokr_norm")
    return import_adapter(
        lycoris_config,
        linears,
        norm,
        findings,
        source,
        norm_pointer=config.at("init_lokr_norm"),
    )


def _say_idle(
    config: Options,
    lycoris_config: Mapping[str, JsonValue] | None,
    with_what: str,
    findings: Findings,
) -> None:
    """What belongs to LoKr has no effect, or contradicts what was asked for."""
    if config.given("init_lokr_norm"):
        message = f"init_lokr_norm is for LoKr adapters; {with_what} has none."
        findings.problem(config.at("init_lokr_norm"), "conflict", message)
    if lycoris_config is not None:
        findings.warn(
            f"The LyCORIS config has no effect with {with_what}; lora_type lycoris uses it."
            if config.text("model_type") == "lora"
            else f"The LyCORIS config has no effect with {with_what}."
        )


def _deferred(
    config: Options, prompt_library: Mapping[str, JsonValue] | None, findings: Findings
) -> None:
    deferred = dict(config.deferred)
    prompts = [str(deferred.get(name, "")) for name in _PROMPTS]
    for nickname, prompt in (prompt_library or {}).items():
        prompts.append(_checked_prompt(nickname, prompt, findings))
    tokens = dict.fromkeys(token for prompt in prompts for token in unfilled_tokens(prompt))
    if tokens:
        findings.warn(
            f"Prompts hold what looks like a placeholder, and are used as they are: "
            f"{', '.join(list(tokens)[:_MAX_TOKENS_NAMED])}."
        )
    if str(deferred.get("user_prompt_library", "")).strip().lower() in ("", "none", "false"):
        deferred.pop("user_prompt_library", None)
    if prompt_library is not None:
        deferred["prompt_library"] = dict(prompt_library)
    idle = sorted(deferred.keys() - _USED_FOR_THE_SAMPLE)
    if idle:
        findings.warn(f"Kept, but without effect in this version: {', '.join(idle)}.")


def _checked_prompt(nickname: str, prompt: JsonValue, findings: Findings) -> str:
    """A nickname becomes a file's name; a prompt is text, or an object with it as ``prompt``."""
    at = f"/prompt_library/{escaped(nickname)}"
    if not nickname.strip():
        findings.problem(at, "bad_value", "A prompt needs a nickname.")
    text = prompt
    if isinstance(prompt, dict):
        text, at = prompt.get("prompt"), f"{at}/prompt"
    if isinstance(text, str):
        return text
    message = f"{nickname}: a prompt has to be text, or an object with text under prompt."
    findings.problem(at, "bad_value", message)
    return ""


_MAX_DEPTH: Final = 32


def _unstorable(value: object, pointer: str, depth: int) -> Iterator[str]:
    """Pointers to text with a NUL or half a surrogate pair, and to what is nested too deep."""
    if depth > _MAX_DEPTH:
        yield pointer
    elif isinstance(value, str):
        if not _is_storable(value):
            yield pointer
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not _is_storable(str(key)):
                yield pointer
            else:
                yield from _unstorable(item, f"{pointer}/{escaped(str(key))}", depth + 1)
    elif isinstance(value, Sequence):
        for position, item in enumerate(value):
            yield from _unstorable(item, f"{pointer}/{position}", depth + 1)


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
