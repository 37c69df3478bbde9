"""What DeepSpeed's own configuration gives for options, and which of its values none can have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.config.simpletuner.deepspeed_entries import (
    ADAMW,
    OPTIMIZERS,
    SCHEDULES,
    is_auto,
    kind_of,
    offload_device,
    section_of,
    shown,
)
from trainer_core.config.simpletuner.deepspeed_names import OF_OPTIMIZER
from trainer_core.config.simpletuner.reading import Options, typed_value, why_wrong
from trainer_core.config.simpletuner.verdicts import Option, Verdict

EntryPath = tuple[str, ...]
"""Of an entry: the names of the objects that it is in, then its own."""

_STAGE: Final = "zero_stage"
_OFFLOAD: Final = "zero_offload"
_MICRO_BATCH: Final[EntryPath] = ("train_micro_batch_size_per_gpu",)
_ACCUMULATION: Final[EntryPath] = ("gradient_accumulation_steps",)
_PARAMS: Final[EntryPath] = ("optimizer", "params")
_RATE: Final[EntryPath] = (*_PARAMS, "lr")
_BETAS: Final[EntryPath] = (*_PARAMS, "betas")
_FOLLOWING: Final[Mapping[EntryPath, EntryPath]] = {
    _MICRO_BATCH: ("train_batch_size",),
    _ACCUMULATION: ("train_batch_size",),
    _RATE: ("scheduler", "params", "warmup_max_lr"),
}
"""Entry → another one, which can be compared only where the first has a value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that has the value of an option."""

    path: EntryPath
    value: Any
    """Not checked yet."""


@dataclass(frozen=True, slots=True)
class WrongEntry:
    """An entry whose value no run can have."""

    path: EntryPath
    message: str


def options_in(content: Mapping[str, Any]) -> Mapping[str, Entry]:
    """Option → the entry that has its value; none where that is ``auto``."""
    zero, optimizer, scheduler = (
        section_of(content, key) or {} for key in ("zero_optimization", "optimizer", "scheduler")
    )
    params, warmup = (section_of(each, "params") or {} for each in (optimizer, scheduler))
    named = OPTIMIZERS.get(kind_of(optimizer).lower())
    betas, stage = params.get("betas"), zero.get("stage")
    beta1, beta2 = betas if isinstance(betas, list) and len(betas) == 2 else (None, None)
    of_adamw = params if named is ADAMW else {}
    found = {
        _STAGE: Entry((_STAGE,), content.get(_STAGE))
        if is_auto(stage)
        else Entry(("zero_optimization", "stage"), stage),
        _OFFLOAD: _offload(content, zero),
        "train_batch_size": Entry(_MICRO_BATCH, content.get(*_MICRO_BATCH)),
        "gradient_accumulation_steps": Entry(_ACCUMULATION, content.get(*_ACCUMULATION)),
        "max_grad_norm": Entry(("gradient_clipping",), content.get("gradient_clipping")),
        "optimizer": Entry(("optimizer", "type"), None if named is None else named[0]),
        "learning_rate": Entry(_RATE, params.get("lr")),
        "adam_beta1": Entry(_BETAS, beta1),
        "adam_beta2": Entry(_BETAS, beta2),
        "adam_weight_decay": Entry((*_PARAMS, "weight_decay"), of_adamw.get("weight_decay")),
        "adam_epsilon": Entry((*_PARAMS, "eps"), of_adamw.get("eps")),
        "lr_scheduler": Entry(("scheduler", "type"), SCHEDULES.get(kind_of(scheduler).lower())),
        "lr_warmup_steps": Entry(
            ("scheduler", "params", "warmup_num_steps"), warmup.get("warmup_num_steps")
        ),
    }
    return {option: entry for option, entry in found.items() if not is_auto(entry.value)}


def _offload(content: Mapping[str, Any], zero: Mapping[str, Any]) -> Entry:
    """The first entry that offloads the optimizer to the CPU."""
    for name in OF_OPTIMIZER:
        for path, entries in (((name,), content), (("zero_optimization", name), zero)):
            if offload_device(entries.get(name)) == "cpu":
                return Entry(path, "cpu")
    return Entry((_OFFLOAD,), None)


def wrong_entries(content: Mapping[str, Any], table: Mapping[str, Verdict]) -> Iterator[WrongEntry]:
    """The entries whose value their option does not take, in any run.

    The stage is left out: ``findings_of`` tells of it. ``table``: the options.
    """
    for name, entry in options_in(content).items():
        row = table[name]
        assert isinstance(row, Option)
        why = None if name == _STAGE else why_wrong(row, entry.value)
        if entry.path == _ACCUMULATION and typed_value(row, entry.value) == 0:
            why = "at least 1, not 0"  # the option's 0 means 1
        if why is not None:
            yield WrongEntry(entry.path, f"{'.'.join(entry.path)} has to be {why}.")
    params = section_of(section_of(content, "optimizer") or {}, "params") or {}
    betas = params.get("betas")
    if not (is_auto(betas) or (isinstance(betas, list) and len(betas) == 2)):
        message = f"{'.'.join(_BETAS)} has to be a list of two numbers, not {shown(betas)}."
        yield WrongEntry(_BETAS, message)


def comparable(
    content: Mapping[str, Any],
    wrong: list[WrongEntry],
    config: Options,
    table: Mapping[str, Verdict],
) -> Mapping[str, Any]:
    """The configuration without the entries that are wrong, or whose option is."""
    left_out = [each.path for each in wrong]
    for name, entry in options_in(content).items():
        row = table[name]
        assert isinstance(row, Option)
        if config.is_wrong(row):
            left_out.append(entry.path)
    for path in left_out:
        content = _without(content, path)
        if path in _FOLLOWING:
            content = _without(content, _FOLLOWING[path])
    return content


def _without(content: Mapping[str, Any], path: EntryPath) -> Mapping[str, Any]:
    """A copy without one entry."""
    name, *inside = path
    if name not in content:
        return content
    if not inside:
        return {key: value for key, value in content.items() if key != name}
    inner = content[name]
    if not isinstance(inner, Mapping):
        return content
    return {**content, name: _without(inner, tuple(inside))}
