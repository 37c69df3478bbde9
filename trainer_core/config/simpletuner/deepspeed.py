"""Options of DeepSpeed, which shards full-rank training: the stage of ZeRO, and its own file."""

import ast
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from trainer_core.config.simpletuner.deepspeed_entries import (
    LARGEST_STAGE,
    Idle,
    Resolved,
    Unlike,
    Wrong,
    findings_of,
    options_in,
)
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options, requests_nothing, typed_value
from trainer_core.config.simpletuner.steps import WORLD_SIZE
from trainer_core.config.simpletuner.verdicts import Option, Table, Verdict

DEEPSPEED: Final = Table()
_DEFAULT_STAGE: Final = 2
_MAX_ENTRIES: Final = 300
"""DeepSpeed has about 150. A message and a hint for each unknown one take milliseconds."""
_MAX_TEXT: Final = 50_000
"""Characters. Python's parser takes some memory for each."""
_PRESETS: Final = {"zero1": 1, "zero2": 2, "zero3": 3}
"""What SimpleTuner's presets of acceleration write in place of a configuration."""

_ZERO_STAGE: Final[Option[int | None]] = DEEPSPEED.integer(
    "zero_stage",
    None,
    "Reverie's own: DeepSpeed ZeRO stage with model_type full; 2 by default on several GPUs, "
    "no DeepSpeed on one.",
    at_least=0,
    at_most=LARGEST_STAGE,
)
_CONFIG: Final = DEEPSPEED.value(
    "deepspeed_config",
    "With model_type full: DeepSpeed's configuration, as an object, as JSON text or as the path of "
    "its file, or zero1, zero2 or zero3. Its stage is zero_stage. Its batch size, accumulation, "
    "clipping, optimizer and warm-up are those of the options that are not written; where an "
    "option is written, both have to be the same. Nothing is offloaded.",
)
DEEPSPEED.unlike(
    _CONFIG,
    "Where it has no optimizer, scheduler or gradient_clipping, the options act; SimpleTuner then "
    "takes AdamW, WarmupLR and no clipping. Nothing is offloaded. It has no effect on an adapter, "
    "which SimpleTuner refuses to train with it.",
)


def file_named_by(value: object) -> str | None:
    """The path that a value of ``deepspeed_config`` is; None where it is no path."""
    if not isinstance(value, str) or requests_nothing(value, ()):
        return None
    text = value.strip()
    is_content = text.startswith(("{", "[")) or text.lower() in _PRESETS
    return None if is_content else text


def with_deepspeed(config: Options, table: Mapping[str, Verdict]) -> Options:
    """The options, with what ``deepspeed_config`` gives for those that were not written.

    A value that its option would not take is left; ``check_deepspeed`` reports it.
    """
    content = _content_of(config) if is_full_rank(config) else None
    given = {}
    for name, value in options_in(content or {}).items():
        row = table[name]
        assert isinstance(row, Option)
        if config.is_missing(row) and (typed := typed_value(row, value)) is not None:
            given[name] = typed
    return replace(config, values={**config.values, **given})


def names_deepspeed(config: Options) -> bool:
    """Whether ``deepspeed_config`` asks for DeepSpeed."""
    return not requests_nothing(config[_CONFIG], ())


def uses_deepspeed(config: Options) -> bool:
    """Whether DeepSpeed is used: for full rank with a stage, or on several GPUs.

    An invalid stage counts too, so that options that depend on it are checked as well.
    """
    written = not config.is_missing(_ZERO_STAGE) or names_deepspeed(config)
    return is_full_rank(config) and (written or config[WORLD_SIZE] > 1)


def zero_stage_of(config: Options) -> int | None:
    """DeepSpeed's ZeRO stage; None: one process without DeepSpeed."""
    if not is_full_rank(config):
        config.idle("on an adapter", _ZERO_STAGE)
        return None
    if (stage := config[_ZERO_STAGE]) is not None:
        return stage
    return _DEFAULT_STAGE if uses_deepspeed(config) else None


def check_deepspeed(config: Options, run: Resolved) -> None:
    """Report what ``deepspeed_config`` has that the run has not."""
    if not names_deepspeed(config):
        return
    if not is_full_rank(config):
        config.idle("on an adapter, which trains in one process without DeepSpeed", _CONFIG)
        return
    content = _content_of(config)
    if content is None:
        _report_unreadable(config)
        return
    if _number_of_entries(content) > _MAX_ENTRIES:
        message = f"deepspeed_config has more than {_MAX_ENTRIES} entries."
        config.problem(_CONFIG, "bad_value", message)
        return
    found = list(findings_of(content, run))
    for each in found:
        match each:
            case Wrong():
                config.problem(_CONFIG, each.code, f"deepspeed_config: {each.message}")
            case Unlike():
                config.differs(_CONFIG, each.message)
            case Idle():
                pass  # all of them are one line below
    given = options_in(content).keys() - {*config.names, _ZERO_STAGE.name}
    idle = [each.name for each in found if isinstance(each, Idle)]
    message = f"zero_stage is {run.stage}."
    if given:
        message += f" It gives {', '.join(sorted(given))}."
    if idle:
        message += f" The trainer sets {', '.join(idle)} itself."
    if not any(isinstance(each, Wrong) for each in found):
        config.handled(_CONFIG, message)


def _content_of(config: Options) -> Mapping[str, Any] | None:
    """The configuration as an object; None where it is none."""
    value: object = config[_CONFIG]
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _PRESETS:
            return {"zero_optimization": {"stage": _PRESETS[text.lower()]}}
        value = _parsed(text)
    return value if isinstance(value, Mapping) else None


def _parsed(text: str) -> object:
    """JSON, or Python's own notation, which SimpleTuner reads too; None where it is neither."""
    if len(text) > _MAX_TEXT:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(json.dumps(ast.literal_eval(text)))  # keys become text, no sets are left
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _number_of_entries(content: Mapping[str, Any]) -> int:
    """Of the configuration and of all objects in it."""
    number, left = 0, [content]
    while left:
        entries = left.pop()
        number += len(entries)
        left += [value for value in entries.values() if isinstance(value, Mapping)]
    return number


def _report_unreadable(config: Options) -> None:
    name = file_named_by(config[_CONFIG])
    if name is not None and config.source == "http":
        message = (
            "deepspeed_config names a file, which the service does not read: send its content as "
            "an object, as `reverie runs submit` does."
        )
        config.problem(_CONFIG, "refused", message)
    elif name is None and len(str(config[_CONFIG])) > _MAX_TEXT:
        message = f"deepspeed_config is longer than {_MAX_TEXT} characters: take entries out."
        config.problem(_CONFIG, "bad_value", message)
    else:
        message = (
            "deepspeed_config has to be an object, as JSON text or in a file too, or zero1, zero2 "
            "or zero3."
        )
        config.problem(_CONFIG, "bad_value", message)
