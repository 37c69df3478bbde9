"""Options of DeepSpeed, which shards full-rank training: the stage of ZeRO, and its own file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trainer_core.config.plan import ZeroOffload, ZeroStage
from trainer_core.config.simpletuner.deepspeed_entries import (
    LARGEST_STAGE,
    Finding,
    Idle,
    Resolved,
    Unlike,
    Wrong,
    findings_of,
)
from trainer_core.config.simpletuner.deepspeed_text import Unread, content_of, file_named_by
from trainer_core.config.simpletuner.deepspeed_values import (
    comparable,
    options_in,
    wrong_entries,
)
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options, requests_nothing, typed_value
from trainer_core.config.simpletuner.steps import WORLD_SIZE
from trainer_core.config.simpletuner.verdicts import Option, Table, Verdict

DEEPSPEED: Final = Table()
_MAX_ENTRIES: Final = 300
"""DeepSpeed has about 150. A message and a hint for each unknown one take milliseconds."""
_ZERO_STAGE: Final[Option[int | None]] = DEEPSPEED.integer(
    "zero_stage",
    None,
    "Reverie's own: DeepSpeed ZeRO stage with model_type full. By default the lowest from 2 that "
    "fits the GPUs where there are several, and no DeepSpeed on one.",
    at_least=0,
    at_most=LARGEST_STAGE,
)
_ZERO_OFFLOAD: Final[Option[ZeroOffload | None]] = DEEPSPEED.choice(
    "zero_offload",
    ZeroOffload,
    None,
    "Reverie's own: with cpu, DeepSpeed keeps fp32 weights and optimizer state in the host's "
    "memory, and updates them there; with auto where it does not fit otherwise. auto by default "
    "without zero_stage, else none.",
)
_CONFIG: Final = DEEPSPEED.value(
    "deepspeed_config",
    "With model_type full: DeepSpeed's configuration, as an object, as JSON text or as the path of "
    "its file, or zero1, zero2 or zero3. Its stage is zero_stage, and where it offloads the "
    "optimizer to the CPU, zero_offload is cpu. Its batch size, accumulation, clipping, optimizer "
    "and warm-up are those of the options that are not written; where an option is written, both "
    "have to be the same.",
)
DEEPSPEED.unlike(
    _CONFIG,
    "Where it has no optimizer, scheduler or gradient_clipping, the options act; SimpleTuner then "
    "takes AdamW, WarmupLR and no clipping. Nothing is offloaded but the optimizer, to the CPU. It "
    "has no effect on an adapter, which SimpleTuner refuses to train with it.",
)


def with_deepspeed(config: Options, table: Mapping[str, Verdict]) -> Options:
    """The options, with what ``deepspeed_config`` gives for those that were not written.

    A value that its option would not take is left; ``check_deepspeed`` reports it.
    """
    content = content_of(config[_CONFIG]) if is_full_rank(config) else {}
    given = {}
    for name, entry in options_in({} if isinstance(content, Unread) else content).items():
        row = table[name]
        assert isinstance(row, Option)
        if config.is_missing(row) and (typed := typed_value(row, entry.value)) is not None:
            given[name] = typed
    return replace(config, values={**config.values, **given})


def names_deepspeed(config: Options) -> bool:
    """Whether ``deepspeed_config`` asks for DeepSpeed; an empty object does not, nor its text."""
    value = config[_CONFIG]
    return not requests_nothing(value, ()) and content_of(value) != {}


def uses_deepspeed(config: Options) -> bool:
    """Whether DeepSpeed is used: for full rank with a stage, or on several GPUs.

    An invalid stage counts too, so that options that depend on it are checked as well.
    """
    options = _ZERO_STAGE, _ZERO_OFFLOAD
    written = names_deepspeed(config) or not all(map(config.is_missing, options))
    return is_full_rank(config) and (written or config[WORLD_SIZE] > 1)


def zero_stage_of(config: Options) -> ZeroStage | None:
    """DeepSpeed's ZeRO stage; None: one process without DeepSpeed."""
    if not is_full_rank(config):
        config.idle("on an adapter: each GPU holds the base whole", _ZERO_STAGE)
        return None
    if (stage := config[_ZERO_STAGE]) is not None:
        return stage
    return "auto" if uses_deepspeed(config) else None


def zero_offload_of(config: Options) -> ZeroOffload:
    """Where DeepSpeed keeps fp32 weights and optimizer state."""
    if not is_full_rank(config):
        config.idle("on an adapter", _ZERO_OFFLOAD)
        return "none"
    if (offload := config[_ZERO_OFFLOAD]) is not None:
        return offload
    return "auto" if zero_stage_of(config) == "auto" else "none"


def check_deepspeed(config: Options, run: Resolved, table: Mapping[str, Verdict]) -> None:
    """Report what ``deepspeed_config`` has that the run has not. ``table``: the options."""
    content = content_of(config[_CONFIG])
    if run.stage == 0 and run.offload != "none":
        message = "zero_stage 0 has nothing to offload: set it to 1, 2 or 3."
        config.problem(_ZERO_OFFLOAD, "conflict", message)
    if not names_deepspeed(config):
        if content == {}:
            config.idle("because it is empty", _CONFIG)
        return
    if not is_full_rank(config):
        config.idle("on an adapter: each GPU holds the base whole, without DeepSpeed", _CONFIG)
        return
    if isinstance(content, Unread):
        _report_unread(config, content)
        return
    if _number_of_entries(content) > _MAX_ENTRIES:
        message = f"deepspeed_config has more than {_MAX_ENTRIES} entries."
        config.problem(_CONFIG, "bad_value", message)
        return
    wrong = list(wrong_entries(content, table))
    found: list[Finding] = [Wrong("bad_value", each.message) for each in wrong]
    found += findings_of(comparable(content, wrong, config, table), run)
    if any(isinstance(each, Wrong) for each in found):
        for each in found:
            if isinstance(each, Wrong):
                config.problem(_CONFIG, each.code, f"deepspeed_config: {each.message}")
    else:
        _report_taken(config, content, found, run)


def _report_taken(
    config: Options, content: Mapping[str, Any], found: Sequence[Finding], run: Resolved
) -> None:
    """Say what a configuration without a problem does."""
    for each in found:
        if isinstance(each, Unlike):
            config.differs(_CONFIG, each.message)
    own = {_ZERO_STAGE.name, _ZERO_OFFLOAD.name}
    given = options_in(content).keys() - {*config.names, *own}
    idle = [each.name for each in found if isinstance(each, Idle)]
    message = f"zero_stage is {run.stage}."
    if run.offload == "cpu":
        message += f" zero_offload is {run.offload}."
    if given:
        message += f" It gives {', '.join(sorted(given))}."
    if idle:
        message += f" The trainer sets {', '.join(idle)} itself."
    config.handled(_CONFIG, message)


def _number_of_entries(content: Mapping[str, Any]) -> int:
    """Of the configuration and of all objects in it."""
    number, left = 0, [content]
    while left:
        entries = left.pop()
        number += len(entries)
        left += [value for value in entries.values() if isinstance(value, Mapping)]
    return number


def _report_unread(config: Options, content: Unread) -> None:
    if file_named_by(config[_CONFIG]) is not None and config.source == "http":
        message = (
            "deepspeed_config names a file, which the service does not read: send its content as "
            "an object, as `reverie runs submit` does."
        )
        config.problem(_CONFIG, "refused", message)
    else:
        config.problem(_CONFIG, "bad_value", f"deepspeed_config {content.message}")
