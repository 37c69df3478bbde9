"""The preset of a LyCORIS config, read into diffusers' class names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from trainer_core.config.simpletuner.adapter_options import (
    CLASS_NAMES,
    OVERRIDE_OPTIONS,
    PRESET_OPTIONS,
)
from trainer_core.config.simpletuner.patterns import (
    MAX_PATTERN_CHARACTERS,
    UnsupportedPatternError,
    matcher,
)
from trainer_core.config.simpletuner.reading import Findings, Options, Source, escaped, read_options
from trainer_core.config.simpletuner.scalars import was_judged
from trainer_core.config.simpletuner.targets import NAMED_PRESETS, Preset, Target

_MAX_RULES: Final = 200


@dataclass(frozen=True, slots=True)
class ReadPreset:
    """A preset, as far as it can be read."""

    preset: Preset
    places: Mapping[str, str] = field(default_factory=dict)
    """Class (as in the preset) or pattern → pointer to where it was written."""
    is_whole: bool = True
    """Whether nothing was wrong with it; what is wrong is left out."""


def lowered_algo(raw: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The options, the kind of adapter in small letters: LyCORIS takes it in any case."""
    return {
        key: value.lower()
        if isinstance(value, str) and str(key).removeprefix("--") == "algo"
        else value
        for key, value in raw.items()
    }


def read_preset(options: Options, findings: Findings, source: Source) -> ReadPreset | None:
    """What ``apply_preset`` or ``preset`` asks for; None where it cannot be read at all."""
    raw, name = options.raw("apply_preset"), options.text("preset")
    if name is not None and name in NAMED_PRESETS:
        if raw is not None:
            message = f"preset {name} and apply_preset both say what is adapted; give one of them."
            findings.problem(options.at("preset"), "conflict", message)
            return None
        return ReadPreset(NAMED_PRESETS[name])
    if raw is None:
        return ReadPreset(Preset(classes=("Linear",)))  # as lycoris does without a preset
    if isinstance(raw, str) and raw in NAMED_PRESETS:
        return ReadPreset(NAMED_PRESETS[raw])
    if isinstance(raw, dict):
        return _from_object(raw, options.at("apply_preset"), findings, source)
    message = f"apply_preset has to be an object, or one of {', '.join(NAMED_PRESETS)}."
    findings.problem(options.at("apply_preset"), "bad_value", message)
    return None


def _from_object(
    raw: dict[str, JsonValue], pointer: str, findings: Findings, source: Source
) -> ReadPreset:
    before = len(findings.problems)
    read = read_options(raw, PRESET_OPTIONS, pointer, findings, source)
    classes, names, exclude = (
        _texts(read, name, findings) for name in ("target_module", "target_name", "exclude_name")
    )
    class_overrides = _overrides(read, "module_algo_map", findings, source)
    name_overrides = _overrides(read, "name_algo_map", findings, source)
    places = {
        **_places(read, "name_algo_map", name_overrides),
        **_places(read, "exclude_name"),
        **_places(read, "target_name"),
    }
    use_fnmatch = read.flag("use_fnmatch")
    usable = _usable(read, places, use_fnmatch, findings)
    if was_judged(read, "use_fnmatch"):
        usable = frozenset()  # it is not known what they mean
    if not read.given("target_module"):
        if names or class_overrides or name_overrides:
            findings.warn(
                "apply_preset: without target_module exactly the named modules are adapted "
                "(LyCORIS itself would add every linear layer)."
            )
        elif len(findings.problems) == before:
            classes = ("Linear",)
    for old, new in CLASS_NAMES.items():
        if {old, new} <= class_overrides.keys():
            message = f"{old} and {new} are the same class; give overrides for one of them."
            findings.problem(read.at("module_algo_map"), "conflict", message)
    preset = Preset(
        classes=tuple(_in_diffusers(name, findings) for name in classes),
        names=tuple(name for name in names if name in usable),
        class_overrides={_in_diffusers(n, findings): t for n, t in class_overrides.items()},
        name_overrides={name: t for name, t in name_overrides.items() if name in usable},
        exclude=tuple(name for name in exclude if name in usable),
        use_fnmatch=use_fnmatch,
    )
    of_classes = {
        **_places(read, "module_algo_map", class_overrides),
        **_places(read, "target_module"),
    }
    places |= {CLASS_NAMES.get(name, name): place for name, place in of_classes.items()}
    return ReadPreset(preset, places, is_whole=len(findings.problems) == before)


def _places(read: Options, name: str, keys: Iterable[str] | None = None) -> dict[str, str]:
    """Pointer to each key of an object, or to each text of a list, first occurrence first."""
    if keys is not None:
        return {key: f"{read.at(name)}/{escaped(key)}" for key in keys}
    raw = read.raw(name)
    texts = list(enumerate(raw)) if isinstance(raw, list) else []
    return {str(text): f"{read.at(name)}/{number}" for number, text in reversed(texts)}


def _in_diffusers(class_name: str, findings: Findings) -> str:
    translated = CLASS_NAMES.get(class_name)
    if translated is None:
        return class_name
    findings.warn(f"apply_preset: {class_name} is {translated} in this model.")
    return translated


def _texts(read: Options, name: str, findings: Findings) -> tuple[str, ...]:
    raw = read.raw(name)
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        findings.problem(read.at(name), "bad_value", f"{name} has to be a list of names.")
        return ()
    return tuple(dict.fromkeys(str(item) for item in raw))


def _overrides(read: Options, name: str, findings: Findings, source: Source) -> dict[str, Target]:
    raw = read.raw(name)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        findings.problem(read.at(name), "bad_value", f"{name} has to be an object.")
        return {}
    targets = {}
    for key, value in raw.items():
        pointer = f"{read.at(name)}/{escaped(key)}"
        if not isinstance(value, dict):
            findings.problem(pointer, "bad_value", f"{key} has to be an object.")
            continue
        options = read_options(lowered_algo(value), OVERRIDE_OPTIONS, pointer, findings, source)
        if options.values.get("factor") == 0:
            findings.problem(
                options.at("factor"), "bad_value", "factor has to be -1 or at least 1."
            )
        given = {name: typed for name, typed in options.values.items() if name != "algo"}
        targets[key] = Target(**given)  # type: ignore[arg-type] # typed by the table
    return targets


def _usable(
    read: Options, places: Mapping[str, str], use_fnmatch: bool, findings: Findings
) -> frozenset[str]:
    """The patterns that can be matched; what is wrong with the others is told."""
    if len(places) > _MAX_RULES:
        message = f"{len(places)} names and patterns, more than {_MAX_RULES}."
        findings.problem(read.pointer, "bad_value", message)
        return frozenset()
    usable = set()
    for pattern, place in places.items():
        if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS:
            message = f"A pattern has 1 to {MAX_PATTERN_CHARACTERS} characters."
            findings.problem(place, "bad_value", message)
            continue
        try:
            matcher(pattern, use_fnmatch=use_fnmatch)
        except UnsupportedPatternError:
            message = f"{pattern}: write it as a shell pattern and set use_fnmatch to true."
            findings.problem(place, "not_implemented", message)
        else:
            usable.add(pattern)
    return frozenset(usable)
