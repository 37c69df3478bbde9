"""Makes a plan from SimpleTuner's files, or reports all their problems at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import (
    Backend,
    Base,
    Identity,
    LokrAdapter,
    LoraAdapter,
    Plan,
    StartAdapter,
)
from trainer_core.config.plan.problems import Notice, PlanError, ProblemCode
from trainer_core.config.simpletuner.adapter import adapter_of
from trainer_core.config.simpletuner.backends import backends_of
from trainer_core.config.simpletuner.captions import check_caption_length
from trainer_core.config.simpletuner.deepspeed import (
    check_deepspeed,
    with_deepspeed,
    zero_offload_of,
    zero_stage_of,
)
from trainer_core.config.simpletuner.deepspeed_entries import Resolved
from trainer_core.config.simpletuner.ema import ema_of
from trainer_core.config.simpletuner.full_rank import (
    clip_of,
    trained_of,
    with_full_rank_weights,
)
from trainer_core.config.simpletuner.mixing import check_some_backend, data_sampling_of
from trainer_core.config.simpletuner.model import base_of
from trainer_core.config.simpletuner.objective import caption_dropout_of, objective_of
from trainer_core.config.simpletuner.operation import operation_of
from trainer_core.config.simpletuner.optimizer import optimizer_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.placeholders import (
    Filling,
    filled_backends,
    filled_config,
    unset_message,
)
from trainer_core.config.simpletuner.precision import precision_of
from trainer_core.config.simpletuner.reading import Findings, Options, Source, escaped, read_options
from trainer_core.config.simpletuner.schedule import schedule_of
from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.config.simpletuner.start import Start, start_of
from trainer_core.config.simpletuner.steps import (
    BATCH_SIZE,
    accumulation_of,
    length_of,
    seed_of,
    world_size_of,
)

_PUBLISHED_MAX_AREA_PX: Final = 1024 * 1024
_MAX_DEPTH: Final = 32
_NOT_STORABLE: Final = "It has a character that cannot be stored."


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """A plan, and notices about how the files were read."""

    plan: Plan
    notices: tuple[Notice, ...]
    sources: Mapping[str, PictureSource] = field(default_factory=dict)
    """Backend id → what its files are fetched from before its folder is read; no part of the plan:
    it holds credentials."""


def import_run(
    *,
    config: Mapping[str, JsonValue],
    lycoris_config: Mapping[str, JsonValue] | None,
    data_backends: Sequence[JsonValue],
    prompt_library: Mapping[str, JsonValue] | None,
    base_models: Mapping[str, BaseModel],
    source: Source,
    start: Start = None,
) -> Imported:
    """The plan that ``config.json`` and the files beside it describe.

    Args:
        config: keys with or without leading dashes; numbers and booleans may be text.
        lycoris_config: needed where an adapter is trained.
        data_backends: the list in ``multidatabackend.json``.
        prompt_library: nickname → prompt.
        base_models: name → base model: the operator's list, or in a local run the one model that
            the caller found for ``base_name_of`` the options.
        source: with ``http`` paths are not accepted.
        start: what the caller found for ``start_name_of`` the options.

    Raises:
        PlanError: with every problem that was found; pointers start at ``/config``,
            ``/lycoris_config``, ``/data_backends`` or ``/prompt_library``.
    """
    request = {
        "config": config,
        "lycoris_config": lycoris_config,
        "data_backends": data_backends,
        "prompt_library": prompt_library,
    }
    _refuse_unstorable(request)
    findings = Findings()
    config, data_backends = _filled(config, data_backends, findings, source)
    options = read_options(config, OPTIONS, "/config", findings, source)
    options = with_deepspeed(options, OPTIONS)
    base = base_of(options, base_models)
    options = with_full_rank_weights(options, base)
    adapter = adapter_of(options, lycoris_config, base)
    start_adapter = start_of(options, adapter, base, start)
    max_area_px = _PUBLISHED_MAX_AREA_PX if base is None else base.max_area_px
    resolved = backends_of(data_backends, options, max_area_px)
    parts = _identity_parts(options, adapter, start_adapter, resolved.backends)
    check_caption_length(options)
    operation = operation_of(options, prompt_library, max_area_px, resolved)
    if findings.problems or base is None:
        raise PlanError(findings.problems, findings.notices)
    identity = parts(Base(name=base.name, digest=base.digest))
    plan = Plan(identity=identity, operation=operation)
    return Imported(plan=plan, notices=findings.notices, sources=resolved.sources)


def _filled(
    config: Mapping[str, JsonValue],
    data_backends: Sequence[JsonValue],
    findings: Findings,
    source: Source,
) -> tuple[Mapping[str, JsonValue], Sequence[JsonValue]]:
    """The documents with their placeholders replaced; each ``{env:NAME}`` left is a problem.

    An option with one is left out, as nothing follows from it.
    """
    filling = Filling(env=None)
    options = filled_config(config, filling)
    refused = {pointer.split("/")[2] for pointer, _ in filling.unset}
    backends = filled_backends(data_backends, options, filling)
    for pointer, variable in filling.unset:
        if source == "http":
            code: ProblemCode = "refused"
            message = (
                f"{{env:{variable}}} is not replaced here: the service reads no environment for a "
                "tenant. `reverie runs submit` replaces it on your machine; or write the value."
            )
        else:
            code, message = "missing", unset_message(variable)
        findings.problem(pointer, code, message)
    return {k: v for k, v in options.items() if escaped(str(k)) not in refused}, backends


def _refuse_unstorable(request: Mapping[str, object]) -> None:
    """Raise PlanError for text that PostgreSQL cannot store; messages that quote it would fail."""
    findings = Findings()
    for pointer, message in _unstorable(request, "", 0):
        findings.problem(pointer, "bad_value", message)
    if findings.problems:
        raise PlanError(findings.problems)


def _identity_parts(
    options: Options,
    adapter: LokrAdapter | LoraAdapter | None,
    start_adapter: StartAdapter | None,
    backends: Sequence[Backend],
) -> Callable[[Base], Identity]:
    """Resolve the parts of the identity and report their problems.

    The result makes the identity from a base model.
    """
    seed, trained = seed_of(options), trained_of(options)
    precision = precision_of(options).model_copy(update={"trained": trained})
    objective = objective_of(options, backends)
    length = length_of(options)
    check_some_backend(backends, length.steps, "/data_backends", options.findings)
    sampling = data_sampling_of(options, backends)
    optimizer = optimizer_of(options)
    schedule = schedule_of(options, optimizer.learning_rate, length.steps)
    clip, ema = clip_of(options), ema_of(options, length.steps)
    accumulation_steps, world_size = accumulation_of(options), world_size_of(options)
    check_deepspeed(
        options,
        Resolved(
            stage=zero_stage_of(options),
            offload=zero_offload_of(options),
            micro_batch_size=options[BATCH_SIZE],
            accumulation_steps=accumulation_steps,
            world_size=world_size,
            clip=clip,
            compute=precision.compute,
            optimizer=optimizer,
            schedule=schedule,
            steps=length.steps,
        ),
        OPTIONS,
    )
    return lambda base: Identity(
        base=base,
        seed=seed,
        model_type="full" if adapter is None else adapter.kind,
        adapter=adapter,
        start_adapter=start_adapter,
        objective=objective,
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        clip=clip,
        ema=ema,
        micro_batch_size=options[BATCH_SIZE],
        accumulation_steps=accumulation_steps,
        world_size=world_size,
        max_train_steps=length.steps,
        num_train_epochs=length.epochs,
        caption_dropout_probability=caption_dropout_of(options),
        backends=tuple(backends),
        sample_order=2,
        data_backend_sampling=sampling,
    )


def _unstorable(value: object, pointer: str, depth: int) -> Iterator[tuple[str, str]]:
    """Pointer and message of text with a NUL or half a surrogate pair, and of what is too deep."""
    if depth > _MAX_DEPTH:
        yield pointer, f"It is nested too deep: at most {_MAX_DEPTH} levels are read."
    elif isinstance(value, str):
        if not _is_storable(value):
            yield pointer, _NOT_STORABLE
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not _is_storable(str(key)):
                yield pointer, _NOT_STORABLE
            else:
                yield from _unstorable(item, f"{pointer}/{escaped(str(key))}", depth + 1)
    elif isinstance(value, Sequence):
        for position, item in enumerate(value):
            yield from _unstorable(item, f"{pointer}/{position}", depth + 1)


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
