"""SimpleTuner's files in, a plan out; or everything that is wrong with them at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from trainer_core.config import scalars
from trainer_core.config.adapter import import_adapter
from trainer_core.config.backends import import_backends
from trainer_core.config.base_models import BaseModel
from trainer_core.config.options import OPTIONS
from trainer_core.config.plan import Base, Identity, LokrAdapter, Plan
from trainer_core.config.problems import PlanError
from trainer_core.config.reading import Findings, Options, Source, escaped, read_options
from trainer_core.config.shapes import hidream_linears

FLAVOURS: Final = {
    "full": "HiDream-ai/HiDream-I1-Full",
    "dev": "HiDream-ai/HiDream-I1-Dev",
    "fast": "HiDream-ai/HiDream-I1-Fast",
}
_REAL_MAX_AREA_PX: Final = 1024 * 1024
"""What HiDream-I1 takes; stands in where the base model is not known, to find further problems."""
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
        base_models: the operator's list, by name.
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
        raise PlanError(findings.problems)
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
    seed = scalars.seed_of(config, findings)
    objective, precision = (
        scalars.objective_of(config, findings),
        scalars.precision_of(config, findings),
    )
    optimizer = scalars.optimizer_of(config, findings)
    schedule, clip = scalars.schedule_of(config, findings), scalars.clip_of(config, findings)
    accumulation, world_size = (
        scalars.accumulation_of(config, findings),
        scalars.world_size_of(config, findings),
    )
    steps = scalars.steps_of(config, findings)
    operation = scalars.operation_of(config, max_area_px, folders, findings)
    deferred = _deferred(config, prompt_library, findings)
    if findings.problems or base is None:
        return None
    identity = Identity(
        base=Base(name=base.name, digest=base.digest),
        seed=seed,
        model_type="full" if scalars.is_full_rank(config) else "lokr",
        adapter=adapter,
        objective=objective,
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        clip=clip,
        ema=None,
        micro_batch_size=config.integer("train_batch_size"),
        accumulation_steps=accumulation,
        world_size=world_size,
        max_train_steps=steps,
        caption_dropout_probability=config.number("caption_dropout_probability") or 0.0,
        backends=backends,
    )
    return Plan(identity=identity, operation=operation, deferred=deferred)


def _base(
    config: Options, base_models: Mapping[str, BaseModel], findings: Findings, source: Source
) -> BaseModel | None:
    written = config.text("pretrained_model_name_or_path")
    flavour = config.text("model_flavour") or "full"
    name = written or FLAVOURS[flavour]
    if name in base_models:
        return base_models[name]
    at = config.at("pretrained_model_name_or_path" if written else "model_flavour")
    if source == "http" and written and _is_path(written):
        message = "A path is not taken as a base model; give the name of one on the list."
        findings.problem(at, "refused", message)
        return None
    listed = ", ".join(sorted(base_models)) or "nothing"
    message = f"{name} is not on this operator's list of base models, which has {listed}."
    findings.problem(at, "bad_value", message)
    return None


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or ".." in name


def _adapter(
    config: Options,
    lycoris_config: Mapping[str, JsonValue] | None,
    base: BaseModel | None,
    findings: Findings,
    source: Source,
) -> LokrAdapter | None:
    norm = config.number("init_lokr_norm")
    if scalars.is_full_rank(config):
        if norm is not None:
            message = "init_lokr_norm is for LoKr adapters; model_type full has none."
            findings.problem(config.at("init_lokr_norm"), "conflict", message)
        if lycoris_config is not None:
            findings.warn("The LyCORIS config has no effect with model_type full.")
        return None
    if config.text("model_type") is None:
        return None
    if config.text("lora_type") == "standard" and "lora_type" not in config.names:
        message = "lora_type is standard by default, which is not built in this version: set it to "
        findings.problem(config.at("lora_type"), "not_implemented", message + "lycoris.")
    if lycoris_config is None:
        findings.problem("/lycoris_config", "missing", "lora_type lycoris needs a LyCORIS config.")
        return None
    if base is None:
        return None
    linears = hidream_linears(base.transformer_config)
    return import_adapter(lycoris_config, linears, norm, findings, source)


def _deferred(
    config: Options, prompt_library: Mapping[str, JsonValue] | None, findings: Findings
) -> dict[str, JsonValue]:
    deferred = dict(config.deferred)
    for nickname, prompt in (prompt_library or {}).items():
        if not isinstance(prompt, str | dict):
            at = f"/prompt_library/{escaped(nickname)}"
            findings.problem(at, "bad_value", f"{nickname}: a prompt has to be text or an object.")
    if prompt_library is not None:
        deferred["prompt_library"] = dict(prompt_library)
    idle = sorted(deferred.keys() - _USED_FOR_THE_SAMPLE)
    if idle:
        findings.warn(f"Kept, but without effect in this version: {', '.join(idle)}.")
    return deferred


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
