"""The preset of a LyCORIS config, read into diffusers' class names."""

from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from trainer_core.config.adapter_options import CLASS_NAMES, OVERRIDE_OPTIONS, PRESET_OPTIONS
from trainer_core.config.patterns import (
    MAX_PATTERN_CHARACTERS,
    UnsupportedPatternError,
    matcher,
)
from trainer_core.config.reading import Findings, Options, Source, escaped, read_options
from trainer_core.config.targets import NAMED_PRESETS, Preset, Target

_MAX_RULES: Final = 200


def read_preset(options: Options, findings: Findings, source: Source) -> Preset | None:
    """What ``apply_preset`` or ``preset`` asks for; None where it cannot be read."""
    raw, name = options.raw("apply_preset"), options.text("preset")
    if name is not None and name in NAMED_PRESETS:
        if raw is not None:
            message = f"preset {name} and apply_preset both say what is adapted; give one of them."
            findings.problem(options.at("preset"), "conflict", message)
            return None
        return NAMED_PRESETS[name]
    if raw is None:
        return Preset(classes=("Linear",))  # as lycoris does without a preset
    if isinstance(raw, str) and raw in NAMED_PRESETS:
        return NAMED_PRESETS[raw]
    if isinstance(raw, dict):
        return _from_object(raw, options.at("apply_preset"), findings, source)
    message = f"apply_preset has to be an object, or one of {', '.join(NAMED_PRESETS)}."
    findings.problem(options.at("apply_preset"), "bad_value", message)
    return None


def _from_object(
    raw: dict[str, JsonValue], pointer: str, findings: Findings, source: Source
) -> Preset | None:
    before = len(findings.problems)
    read = read_options(raw, PRESET_OPTIONS, pointer, findings, source)
    use_fnmatch = read.flag("use_fnmatch")
    classes, names, exclude = (
        _texts(read, name, findings) for name in ("target_module", "target_name", "exclude_name")
    )
    class_overrides = _overrides(read, "module_algo_map", findings, source)
    name_overrides = _overrides(read, "name_algo_map", findings, source)
    _check_patterns(read, (*names, *exclude, *name_overrides), use_fnmatch, findings)
    if len(findings.problems) > before:
        return None
    if not read.given("target_module"):
        if names or class_overrides or name_overrides:
            findings.warn(
                "apply_preset: without target_module exactly the named modules are adapted "
                "(LyCORIS itself would add every linear layer)."
            )
        else:
            classes = ("Linear",)
    for old, new in CLASS_NAMES.items():
        if {old, new} <= class_overrides.keys():
            message = f"{old} and {new} are the same class; give overrides for one of them."
            findings.problem(read.at("module_algo_map"), "conflict", message)
            return None
    return Preset(
        classes=tuple(_in_diffusers(name, findings) for name in classes),
        names=names,
        class_overrides={_in_diffusers(n, findings): t for n, t in class_overrides.items()},
        name_overrides=name_overrides,
        exclude=exclude,
        use_fnmatch=use_fnmatch,
    )


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
        options = read_options(value, OVERRIDE_OPTIONS, pointer, findings, source)
        if options.values.get("factor") == 0:
            findings.problem(pointer, "bad_value", "factor has to be -1 or at least 1.")
        given = {name: typed for name, typed in options.values.items() if name != "algo"}
        targets[key] = Target(**given)  # type: ignore[arg-type] # typed by the table
    return targets


def _check_patterns(
    read: Options, patterns: Sequence[str], use_fnmatch: bool, findings: Findings
) -> None:
    if len(patterns) > _MAX_RULES:
        message = f"{len(patterns)} names and patterns, more than {_MAX_RULES}."
        findings.problem(read.pointer, "bad_value", message)
    for pattern in patterns:
        if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS:
            message = f"A pattern has 1 to {MAX_PATTERN_CHARACTERS} characters."
            findings.problem(read.pointer, "bad_value", message)
            continue
        try:
            matcher(pattern, use_fnmatch=use_fnmatch)
        except UnsupportedPatternError:
            message = f"{pattern}: write it as a shell pattern and set use_fnmatch to true."
            findings.problem(read.pointer, "not_implemented", message)
