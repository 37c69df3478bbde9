"""Options of standard LoRA."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import AdapterInit, LoraAdapter
from trainer_core.config.plan.shapes import LinearShape
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.start import start_name_of
from trainer_core.config.simpletuner.targets import (
    MAX_NEAREST,
    NAMED_PRESETS,
    match_preset,
    nearest,
)
from trainer_core.config.simpletuner.verdicts import Option, Table

LORA: Final = Table()
_MAX_NAMES: Final = 2000

_RANK: Final = LORA.integer("lora_rank", 16, "Rank of LoRA.", at_least=1, at_most=16384)
_ALPHA: Final[Option[float | None]] = LORA.number(
    "lora_alpha", None, "LoRA's scale is alpha / rank; the rank where it is not given.", above=0
)
_DROPOUT: Final = LORA.number(
    "lora_dropout", 0.1, "How often an input of LoRA is left out.", at_least=0, at_most=0.99
)
_INIT: Final[Option[AdapterInit]] = LORA.choice(
    "lora_init_type",
    AdapterInit,
    "default",
    "How LoRA's first matrix starts; the second is zero.",
    known=("loftq", "olora", "pissa"),
)
_FORMAT: Final[Option[str]] = LORA.choice(
    "lora_format",
    {"diffusers": "diffusers"},
    "diffusers",
    "Names of the tensors in LoRA's file; ComfyUI reads these too.",
    known=("comfyui",),
)
_TARGETS: Final = LORA.value(
    "peft_lora_target_modules", "Modules that LoRA adapts: a list, or the name of a preset."
)
LORA.unlike(
    _TARGETS,
    "Without it all eight attention projections of a block are adapted (256 layers); SimpleTuner "
    "adapts 144, without output projections and the text side.",
)
_USE_DORA: Final = LORA.flag("use_dora", False, "Only false: DoRA is not taken.")
_MODE: Final[Option[str]] = LORA.choice(
    "peft_lora_mode",
    {"standard": "standard"},
    "standard",
    "The kind of LoRA.",
    known=("singlora",),
)
_SLIDER: Final = LORA.flag("slider_lora_target", False, "Only false: sliders are not built.")
_OPTIONS: Final = (_RANK, _ALPHA, _DROPOUT, _INIT, _FORMAT, _TARGETS, _USE_DORA, _MODE, _SLIDER)


def lora_of(config: Options, linears: Sequence[LinearShape]) -> LoraAdapter | None:
    """The LoRA that ``config.json`` describes; None where a problem was found."""
    before = len(config.findings.problems)
    modules = _modules(config, linears)
    if config[_USE_DORA]:
        message = "DoRA is not taken; LoRA and LoKr are: set it to false."
        config.problem(_USE_DORA, "refused", message)
    if config[_SLIDER]:
        message = "Slider LoRA is not built in this version: set it to false."
        config.problem(_SLIDER, "not_implemented", message)
    is_wrong = any(config.is_wrong(option) for option in _OPTIONS)
    if is_wrong or len(config.findings.problems) > before:
        return None
    rank, alpha, init = config[_RANK], config[_ALPHA], config[_INIT]
    if start_name_of(config) is not None:
        config.idle("with init_lora", _INIT)
        init = "default"
    return LoraAdapter(
        rank=rank,
        alpha=rank if alpha is None else alpha,
        dropout=config[_DROPOUT],
        init=init,
        modules=modules,
    )


def tell_idle_lora(config: Options, why: str) -> None:
    """Tell that each option of LoRA that was given has no effect; ``why`` begins "with …"."""
    config.idle(why, *_OPTIONS)


def _modules(config: Options, linears: Sequence[LinearShape]) -> tuple[str, ...]:
    """Paths of the linear layers to adapt, by a preset or as peft matches names."""
    wanted = _listed(config[_TARGETS])
    if wanted is None or isinstance(wanted, str):
        preset = NAMED_PRESETS.get(wanted or "attn")
        if preset is not None:
            return tuple(match_preset(preset, linears).targets)
    if not isinstance(wanted, list) or not all(isinstance(name, str) and name for name in wanted):
        message = (
            f"{_TARGETS.name} has to be a list of names, or one of {', '.join(NAMED_PRESETS)}."
        )
        config.problem(_TARGETS, "bad_value", message)
        return ()
    if not wanted:
        message = f"{_TARGETS.name} names nothing; leave it out to adapt the attention projections."
        config.problem(_TARGETS, "bad_value", message)
        return ()
    if len(wanted) > _MAX_NAMES:
        message = f"{_TARGETS.name} has {len(wanted)} names, more than {_MAX_NAMES}."
        config.problem(_TARGETS, "bad_value", message)
        return ()
    endings = {f".{name}": str(name) for name in wanted}
    found: dict[str, list[str]] = {str(name): [] for name in wanted}
    for linear in linears:
        for ending, name in endings.items():
            if f".{linear.path}".endswith(ending):
                found[name].append(linear.path)
    for message in _matching_nothing(found, linears):
        config.problem(_TARGETS, "bad_value", message)
    chosen = {path for paths in found.values() for path in paths}
    return tuple(linear.path for linear in linears if linear.path in chosen)


def _listed(raw: JsonValue) -> JsonValue:
    """Text may hold a list in JSON, or names with commas between them."""
    if not isinstance(raw, str):
        return raw
    if not raw.lstrip().startswith("["):
        parts = [part.strip() for part in raw.split(",")]
        return [part for part in parts if part] if len(parts) > 1 else raw
    try:
        listed: JsonValue = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    return listed


def _matching_nothing(
    found: Mapping[str, Sequence[str]], linears: Sequence[LinearShape]
) -> Iterator[str]:
    unmatched = [name for name, paths in found.items() if not paths]
    around = {name for linear in linears for name in linear.path.split(".")[:-1]}
    ends = {linear.path.rpartition(".")[2] for linear in linears}
    for number, name in enumerate(unmatched):
        whole, _, number_of_list = name.rpartition(".")
        if number_of_list.isdecimal() and whole.rpartition(".")[2] in ends:
            hint = f" Did you mean {whole}?"  # other models have a list of layers there
        elif name.rpartition(".")[2] in around:
            hint = " It holds layers and is none itself: name those inside it."
        elif name in NAMED_PRESETS:
            hint = f" For the preset write {name} alone, without a list."
        else:
            hint = nearest(name, linears) if number < MAX_NEAREST else ""
        yield f"{name} is no linear layer of this base model.{hint}"
