"""The preset of a LyCORIS config: which modules are adapted, and with which overrides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import JsonValue

from trainer_core.config.simpletuner.patterns import (
    MAX_PATTERN_CHARACTERS,
    UnsupportedPatternError,
    matcher,
)
from trainer_core.config.simpletuner.reading import Options, escaped, read_options
from trainer_core.config.simpletuner.targets import NAMED_PRESETS, Preset, Target
from trainer_core.config.simpletuner.verdicts import Option, Table

Factor = TypeVar("Factor", bound=int | None)

PRESET: Final = Table()
OVERRIDE: Final = Table()
_MAX_RULES: Final = 200
DORA: Final = (
    "DoRA rescales whole weights, which a quantised base does not hold, and costs a pass over each "
    "weight in every step. Set it to false."
)

CLASS_NAMES: Final = {
    "Attention": "HiDreamAttention",
    "FeedForward": "HiDreamImageFeedForwardSwiGLU",
    "MOEFeedForward": "MOEFeedForwardSwiGLU",
    "HiDreamImageBlock": "HiDreamBlock",
}
"""Class in SimpleTuner's copy of the model → the same class in diffusers."""


def add_algo(table: Table) -> Option[str | None]:
    """The row of ``algo``, which a LyCORIS config and each override have."""
    return table.choice(
        "algo",
        {"lokr": "lokr"},
        None,
        "The kind of adapter; for LoRA set lora_type to standard in config.json.",
        known=(
            *("lora", "locon", "loha", "ia3", "dylora", "glora", "full", "diag-oft", "boft"),
            "tlora",
        ),
        nearest="lokr",
        any_case=True,
    )


def add_factor(table: Table, default: Factor) -> Option[Factor]:
    """The row of ``factor``, which a LyCORIS config and each override have."""
    reason = "Split of each dimension; larger is smaller. -1: the most even."
    return table.integer("factor", default, reason, at_least=-1)


def check_factor(options: Options, factor: Option[Factor]) -> None:
    """Report a factor of 0, which cannot split a dimension."""
    if options[factor] == 0:
        options.problem(factor, "bad_value", "factor has to be -1 or at least 1.")


_TARGET_MODULE: Final = PRESET.value("target_module", "Classes whose linear layers are adapted.")
_TARGET_NAME: Final = PRESET.value("target_name", "Module paths or patterns.")
_MODULE_MAP: Final = PRESET.value("module_algo_map", "Class → overrides; also a target.")
_NAME_MAP: Final = PRESET.value("name_algo_map", "Path or pattern → overrides; also a target.")
_USE_FNMATCH: Final = PRESET.flag(
    "use_fnmatch", False, "Names are shell patterns instead of expressions."
)
_EXCLUDE: Final = PRESET.value("exclude_name", "Paths or patterns that are left out.")
PRESET.unlike(
    _TARGET_MODULE,
    "Without it only the named modules are adapted, at every precision; LyCORIS adds every linear "
    "layer where the base is not quantised.",
)
PRESET.no_effect("enable_conv", "HiDream has no convolutions.")
PRESET.no_effect(
    "text_encoder_target_module text_encoder_target_name unet_target_module unet_target_name",
    "Only the transformer is adapted; target_module and target_name are for it.",
)
PRESET.handled("lora_prefix", "Exported files have the prefix lycoris.")

add_algo(OVERRIDE)
_FACTOR: Final[Option[int | None]] = add_factor(OVERRIDE, None)
_DIM: Final[Option[int | None]] = OVERRIDE.integer(
    "dim", None, "Rank, where a matrix is not full.", at_least=1
)
_ALPHA: Final[Option[float | None]] = OVERRIDE.number(
    "alpha", None, "As linear_alpha; 0: as the whole adapter."
)
_FULL_MATRIX: Final[Option[bool | None]] = OVERRIDE.flag(
    "full_matrix", None, "As for the whole adapter."
)
_DECOMPOSE_BOTH: Final[Option[bool | None]] = OVERRIDE.flag(
    "decompose_both", None, "As for the whole adapter."
)
_USE_SCALAR: Final[Option[bool | None]] = OVERRIDE.flag(
    "use_scalar", None, "As for the whole adapter."
)
OVERRIDE.refused("dora_wd weight_decompose use_dora", DORA, False)
OVERRIDE.not_built("unbalanced_factorization", "Set it to false.", False, type_="bool")
OVERRIDE.not_built("dropout rank_dropout module_dropout", "Set it to 0.", 0)
OVERRIDE.handled("bypass_mode", "The adapter always works on activations.")


@dataclass(frozen=True, slots=True)
class ReadPreset:
    """A preset in diffusers' class names, without the parts that could not be read."""

    preset: Preset
    places: Mapping[str, str] = field(default_factory=dict)
    """Class (as in the preset) or pattern → pointer to where it was written."""
    is_whole: bool = True
    """Whether nothing was left out."""


def read_preset(
    options: Options, preset: Option[JsonValue], preset_name: Option[str | None]
) -> ReadPreset | None:
    """The value of ``apply_preset`` or ``preset``; None where it cannot be read at all."""
    raw, name = options[preset], options[preset_name]
    if name is not None and name in NAMED_PRESETS:
        if raw is not None:
            message = f"preset {name} and apply_preset both say what is adapted; give one of them."
            options.problem(preset_name, "conflict", message)
            return None
        return ReadPreset(NAMED_PRESETS[name])
    if raw is None:
        return ReadPreset(Preset(classes=("Linear",)))  # as lycoris does without a preset
    if isinstance(raw, str) and raw in NAMED_PRESETS:
        return ReadPreset(NAMED_PRESETS[raw])
    if isinstance(raw, dict):
        at = options.at(preset)
        return _from_object(read_options(raw, PRESET.rows, at, options.findings, options.source))
    message = f"apply_preset has to be an object, or one of {', '.join(NAMED_PRESETS)}."
    options.problem(preset, "bad_value", message)
    return None


def _from_object(read: Options) -> ReadPreset:
    before = len(read.findings.problems)
    classes, names, exclude = (
        _texts(read, option) for option in (_TARGET_MODULE, _TARGET_NAME, _EXCLUDE)
    )
    class_overrides, name_overrides = _overrides(read, _MODULE_MAP), _overrides(read, _NAME_MAP)
    places = {
        **_places(read, _NAME_MAP, name_overrides),
        **_places(read, _EXCLUDE),
        **_places(read, _TARGET_NAME),
    }
    usable = _usable(read, places)
    if read.is_wrong(_USE_FNMATCH):
        usable = frozenset()  # the kind of the patterns is unknown
    if not read.given(_TARGET_MODULE):
        if names or class_overrides or name_overrides:
            read.differs(
                _TARGET_MODULE,
                "is not given: only the named modules are adapted; LyCORIS would add every "
                "linear layer.",
            )
        elif len(read.findings.problems) == before:
            classes = ("Linear",)
    for old, new in CLASS_NAMES.items():
        if {old, new} <= class_overrides.keys():
            message = f"{old} and {new} are the same class; give overrides for one of them."
            read.problem(_MODULE_MAP, "conflict", message)
    preset = Preset(
        classes=tuple(_in_diffusers(name, read) for name in classes),
        names=tuple(name for name in names if name in usable),
        class_overrides={_in_diffusers(n, read): t for n, t in class_overrides.items()},
        name_overrides={name: t for name, t in name_overrides.items() if name in usable},
        exclude=tuple(name for name in exclude if name in usable),
        use_fnmatch=read[_USE_FNMATCH],
    )
    of_classes = {**_places(read, _MODULE_MAP, class_overrides), **_places(read, _TARGET_MODULE)}
    places |= {CLASS_NAMES.get(name, name): place for name, place in of_classes.items()}
    return ReadPreset(preset, places, is_whole=len(read.findings.problems) == before)


def _places(
    read: Options, option: Option[JsonValue], keys: Iterable[str] | None = None
) -> dict[str, str]:
    """Pointer to each key of an object, or to each text of a list, first occurrence first."""
    if keys is not None:
        return {key: f"{read.at(option)}/{escaped(key)}" for key in keys}
    raw = read[option]
    texts = list(enumerate(raw)) if isinstance(raw, list) else []
    return {str(text): f"{read.at(option)}/{number}" for number, text in reversed(texts)}


def _in_diffusers(class_name: str, read: Options) -> str:
    translated = CLASS_NAMES.get(class_name)
    if translated is None:
        return class_name
    message = f"{class_name} is {translated} in this model."
    read.findings.notice("handled", "apply_preset", message, read.pointer)
    return translated


def _texts(read: Options, option: Option[JsonValue]) -> tuple[str, ...]:
    raw = read[option]
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        read.problem(option, "bad_value", f"{option.name} has to be a list of names.")
        return ()
    return tuple(dict.fromkeys(str(item) for item in raw))


def _overrides(read: Options, option: Option[JsonValue]) -> dict[str, Target]:
    raw = read[option]
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        read.problem(option, "bad_value", f"{option.name} has to be an object.")
        return {}
    targets = {}
    for key, value in raw.items():
        pointer = f"{read.at(option)}/{escaped(key)}"
        if not isinstance(value, dict):
            read.findings.problem(pointer, "bad_value", f"{key} has to be an object.")
            continue
        options = read_options(value, OVERRIDE.rows, pointer, read.findings, read.source)
        check_factor(options, _FACTOR)
        targets[key] = Target(
            factor=options[_FACTOR],
            dim=options[_DIM],
            alpha=options[_ALPHA],
            full_matrix=options[_FULL_MATRIX],
            decompose_both=options[_DECOMPOSE_BOTH],
            use_scalar=options[_USE_SCALAR],
        )
    return targets


def _usable(read: Options, places: Mapping[str, str]) -> frozenset[str]:
    """The patterns that can be matched; the others are reported."""
    if len(places) > _MAX_RULES:
        message = f"{len(places)} names and patterns, more than {_MAX_RULES}."
        read.findings.problem(read.pointer, "bad_value", message)
        return frozenset()
    usable = set()
    for pattern, place in places.items():
        if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS:
            message = f"A pattern has 1 to {MAX_PATTERN_CHARACTERS} characters."
            read.findings.problem(place, "bad_value", message)
            continue
        try:
            matcher(pattern, use_fnmatch=read[_USE_FNMATCH])
        except UnsupportedPatternError:
            message = f"{pattern}: write it as a shell pattern and set use_fnmatch to true."
            read.findings.problem(place, "not_implemented", message)
        else:
            usable.add(pattern)
    return frozenset(usable)
