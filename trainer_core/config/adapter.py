"""A LyCORIS config, resolved to the linear layers of one base model."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.config.adapter_options import (
    CLASS_NAMES,
    LYCORIS_OPTIONS,
    OVERRIDE_OPTIONS,
    PRESET_OPTIONS,
)
from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter, TargetRule
from trainer_core.config.reading import Findings, Options, Source, escaped, read_options
from trainer_core.config.shapes import LinearShape, factorization
from trainer_core.config.targets import (
    MAX_PATTERN_CHARACTERS,
    Preset,
    Target,
    UnsupportedPatternError,
    match_preset,
    shell_pattern,
)

_POINTER: Final = "/lycoris_config"
_MAX_RULES: Final = 200


def import_adapter(
    raw: Mapping[str, JsonValue],
    linears: Sequence[LinearShape],
    init_lokr_norm: float | None,
    findings: Findings,
    source: Source,
) -> LokrAdapter | None:
    """The adapter that a LyCORIS config describes; None where ``findings`` got a problem."""
    before = len(findings.problems)
    options = read_options(raw, LYCORIS_OPTIONS, _POINTER, findings, source)
    if "algo" not in options.names:
        findings.problem(f"{_POINTER}/algo", "missing", "algo is missing; this version has lokr.")
    factor = options.integer("factor")
    if factor == 0:
        findings.problem(options.at("factor"), "bad_value", "factor has to be -1 or at least 1.")
    full = options.flag("full_matrix")
    if not full and not options.given("linear_dim"):
        message = "linear_dim is missing; it may be left out only with full_matrix."
        findings.problem(f"{_POINTER}/linear_dim", "missing", message)
    preset = _preset(options, findings, source)
    if preset is None or len(findings.problems) > before:
        return None
    dim = options.integer("linear_dim") if options.given("linear_dim") else 4  # lycoris' default
    alpha = options.number("linear_alpha")
    matched = match_preset(preset, linears)
    for unused in matched.unused:
        message = f"{unused} matches nothing in this base model."
        findings.problem(f"{_POINTER}/apply_preset", "bad_value", message)
    if not matched.targets:
        message = "The preset adapts no module of this base model."
        findings.problem(f"{_POINTER}/apply_preset", "no_modules", message)
    if not full:
        _check_full_anyway(matched.targets, linears, factor, dim, findings)
    if len(findings.problems) > before:
        return None
    return LokrAdapter(
        full_matrix=full,
        factor=factor,
        linear_dim=dim,
        linear_alpha=1.0 if alpha is None else alpha,
        decompose_both=False,
        multiplier=options.number("multiplier") or 1.0,
        use_scalar=options.flag("use_scalar"),
        init_lokr_norm=init_lokr_norm,
        rules=_rules(preset, factor),
        modules=tuple(
            AdaptedModule(
                path=path,
                factor=target.factor or factor,
                dim=target.dim or dim,
                alpha=1.0 if alpha is None else alpha,
                full_matrix=full,
                decompose_both=False,
                use_scalar=options.flag("use_scalar"),
            )
            for path, target in matched.targets.items()
        ),
    )


def _check_full_anyway(
    targets: Mapping[str, Target],
    linears: Sequence[LinearShape],
    factor: int,
    dim: int,
    findings: Findings,
) -> None:
    """lycoris takes a full w2 where the rank is at least half of its longer side; only that is
    built."""
    for linear in linears:
        target = targets.get(linear.path)
        if target is None:
            continue
        split = target.factor or factor
        longer = max(
            factorization(linear.in_features, split)[1],
            factorization(linear.out_features, split)[1],
        )
        if (target.dim or dim) < longer / 2:
            findings.problem(
                f"{_POINTER}/full_matrix",
                "not_implemented",
                f"A decomposed w2 ({linear.path}) is not built in this version. Set full_matrix to "
                f"true, or linear_dim to at least {-(-longer // 2)}.",
            )
            return


def _preset(options: Options, findings: Findings, source: Source) -> Preset | None:
    """The preset in diffusers' class names; None where it cannot be read."""
    pointer = f"{_POINTER}/apply_preset"
    raw = options.raw("apply_preset")
    if raw is None:
        return Preset(classes=("Linear",))  # as lycoris does without a preset
    if not isinstance(raw, dict):
        findings.problem(pointer, "bad_value", "apply_preset has to be an object.")
        return None
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
    if not (classes or names or class_overrides or name_overrides) and not raw.get("target_module"):
        if "target_module" not in raw:
            classes = ("Linear",)
    elif "target_module" not in raw:
        findings.warn(
            "apply_preset: without target_module exactly the named modules are adapted (LyCORIS "
            "itself would add every linear layer)."
        )
    return Preset(
        classes=[_in_diffusers(name, findings) for name in classes],
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
        factor: Any = options.raw("factor") if options.given("factor") else None
        dim: Any = options.raw("dim")
        if factor == 0:
            findings.problem(pointer, "bad_value", "factor has to be -1 or at least 1.")
        targets[key] = Target(factor=factor, dim=dim)
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
            shell_pattern(pattern, use_fnmatch=use_fnmatch)
        except UnsupportedPatternError:
            message = f"{pattern}: write it as a shell pattern and set use_fnmatch to true."
            findings.problem(read.pointer, "not_implemented", message)


def _rules(preset: Preset, factor: int) -> tuple[TargetRule, ...]:
    classes = {name: Target() for name in preset.classes} | dict(preset.class_overrides)
    names = {name: Target() for name in preset.names} | dict(preset.name_overrides)
    return (
        *(TargetRule(module_class=n, factor=t.factor or factor) for n, t in classes.items()),
        *(TargetRule(pattern=n, factor=t.factor or factor) for n, t in names.items()),
    )


def import_lora(
    config: Options, linears: Sequence[LinearShape], findings: Findings
) -> LoraAdapter | None:
    """The LoRA that ``config`` asks for; None where ``findings`` got a problem."""
    if config.raw("peft_lora_target_modules") is not None:
        message = "Other modules than the attention projections are not built yet; leave it out."
        findings.problem(config.at("peft_lora_target_modules"), "not_implemented", message)
        return None
    rank, alpha = config.integer("lora_rank"), config.number("lora_alpha")
    return LoraAdapter(
        rank=rank,
        alpha=float(rank) if alpha is None else alpha,
        dropout=config.number("lora_dropout") or 0.0,
        init="gaussian" if config.text("lora_init_type") == "gaussian" else "default",
        modules=tuple(linear.path for linear in linears if ".attn1.to_" in linear.path),
    )
