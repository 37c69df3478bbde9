"""The adapter that is asked for, resolved to the linear layers of one base model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter
from trainer_core.config.plan.shapes import LinearShape, lokr_shapes, lycoris_loads
from trainer_core.config.simpletuner.adapter_options import LYCORIS_OPTIONS
from trainer_core.config.simpletuner.patterns import UnsupportedPatternError
from trainer_core.config.simpletuner.presets import ReadPreset, lowered_algo, read_preset
from trainer_core.config.simpletuner.reading import Findings, Options, Source, read_options
from trainer_core.config.simpletuner.targets import (
    NAMED_PRESETS,
    Matched,
    Target,
    match_preset,
    nearest,
)

_POINTER: Final = "/lycoris_config"
_DEFAULT_DIM: Final = 4
"""LyCORIS' own, of use only where an override decomposes what the whole adapter does not."""
_MAX_NEAREST: Final = 20
"""Looking for a near name takes a millisecond."""
_MAX_NAMES: Final = 2000
_LORA_TARGETS: Final = "peft_lora_target_modules"


def import_adapter(
    raw: Mapping[str, JsonValue],
    linears: Sequence[LinearShape],
    init_lokr_norm: float | None,
    findings: Findings,
    source: Source,
    *,
    norm_pointer: str = "/config/init_lokr_norm",
) -> LokrAdapter | None:
    """The adapter that a LyCORIS config describes; None where ``findings`` got a problem.

    ``norm_pointer``: where ``init_lokr_norm`` was written.
    """
    before = len(findings.problems)
    options = read_options(lowered_algo(raw), LYCORIS_OPTIONS, _POINTER, findings, source)
    if "algo" not in options.names:
        findings.problem(f"{_POINTER}/algo", "missing", "algo is missing; this version has lokr.")
    if options.integer("factor") == 0:
        findings.problem(options.at("factor"), "bad_value", "factor has to be -1 or at least 1.")
    if not options.flag("full_matrix") and "linear_dim" not in options.names:
        message = "linear_dim is missing; it may be left out only with full_matrix."
        findings.problem(f"{_POINTER}/linear_dim", "missing", message)
    read = read_preset(options, findings, source)
    if read is None:
        return None
    try:
        matched = match_preset(read.preset, linears)
    except UnsupportedPatternError as error:
        message = f"{error}: too much to try; write it as a shell pattern with use_fnmatch true."
        findings.problem(f"{_POINTER}/apply_preset", "not_implemented", message)
        return None
    _report(matched, read, linears, options.at("apply_preset"), findings)
    if len(findings.problems) > before:
        return None
    modules = tuple(_module(path, each, options) for path, each in matched.targets.items())
    if init_lokr_norm is not None:
        _check_full(modules, linears, norm_pointer, findings)
    if len(findings.problems) > before:
        return None
    _warn_of_lycoris(modules, linears, findings)
    return LokrAdapter(
        full_matrix=options.flag("full_matrix"),
        factor=options.integer("factor"),
        linear_dim=_dim(options),
        linear_alpha=_alpha(options),
        decompose_both=options.flag("decompose_both"),
        multiplier=options.number("multiplier") or 1.0,
        use_scalar=options.flag("use_scalar"),
        init_lokr_norm=init_lokr_norm,
        modules=modules,
    )


def _dim(options: Options) -> int:
    return options.integer("linear_dim") if options.given("linear_dim") else _DEFAULT_DIM


def _alpha(options: Options) -> float:
    alpha = options.number("linear_alpha")
    return 1.0 if alpha is None else alpha


def _module(path: str, target: Target, options: Options) -> AdaptedModule:
    """The overrides of one linear over what holds for the whole adapter."""
    dim = target.dim or _dim(options)

    def flag(own: bool | None, name: str) -> bool:
        return options.flag(name) if own is None else own

    return AdaptedModule(
        path=path,
        factor=target.factor or options.integer("factor"),
        dim=dim,
        alpha=target.alpha or _alpha(options) or dim,  # 0 is none to LyCORIS
        full_matrix=flag(target.full_matrix, "full_matrix"),
        decompose_both=flag(target.decompose_both, "decompose_both"),
        use_scalar=flag(target.use_scalar, "use_scalar"),
    )


def _report(
    matched: Matched,
    read: ReadPreset,
    linears: Sequence[LinearShape],
    pointer: str,
    findings: Findings,
) -> None:
    """Say what a preset names in vain; ``pointer``: to the preset."""
    if read.preset not in NAMED_PRESETS.values():
        for number, unused in enumerate(matched.unused):
            hint = nearest(unused, linears) if number < _MAX_NEAREST else ""
            message = f"{unused} matches nothing in this base model.{hint}"
            findings.problem(read.places.get(unused, pointer), "bad_value", message)
    if not read.is_whole:
        return  # the rest may come of what is left out
    for pattern in matched.overtaken:
        findings.warn(
            f"apply_preset: {pattern} names layers that a class target takes first. As in LyCORIS, "
            "its overrides do not hold for them, and fall on the target that follows instead; "
            "leave the class out, or name only layers outside of it."
        )
    if not matched.targets:
        message = "The preset adapts no module of this base model."
        findings.problem(pointer, "no_modules", message)


def _check_full(
    modules: Sequence[AdaptedModule],
    linears: Sequence[LinearShape],
    norm_pointer: str,
    findings: Findings,
) -> None:
    """``init_lokr_norm`` draws w2 like the base weight, which two factors cannot be."""
    by_path = {linear.path: linear for linear in linears}
    for module in modules:
        linear = by_path[module.path]
        if not {"w1", "w2"} <= lokr_shapes(module, linear.in_features, linear.out_features).keys():
            message = (
                f"init_lokr_norm needs full matrices, and {module.path} has decomposed ones. Set "
                "full_matrix to true, or leave init_lokr_norm out."
            )
            findings.problem(norm_pointer, "conflict", message)
            return


def _warn_of_lycoris(
    modules: Sequence[AdaptedModule], linears: Sequence[LinearShape], findings: Findings
) -> None:
    """Name each factor whose file lycoris' own loader cannot read, and the nearest that it can."""
    by_path = {linear.path: (linear.in_features, linear.out_features) for linear in linears}
    of_factor: dict[int, list[str]] = {}
    for module in modules:
        of_factor.setdefault(module.factor, []).append(module.path)
    for factor, paths in of_factor.items():
        shapes = {by_path[path] for path in paths}
        torn = {shape for shape in shapes if not lycoris_loads(factor, *shape)}
        if not torn:
            continue
        lost = [path for path in paths if by_path[path] in torn]
        candidates = (factor + sign * step for step in range(1, factor) for sign in (-1, 1))
        works = (each for each in candidates if all(lycoris_loads(each, *s) for s in shapes))
        findings.warn(
            f"factor {factor}: lycoris-lora cannot load the trained file, because it guesses "
            f"another factor from the shapes of {len(lost)} of {len(paths)} layers (first: "
            f"{lost[0]}). Reverie and ComfyUI can. With factor {next(works, -1)} all three can."
        )


def import_lora(
    config: Options, linears: Sequence[LinearShape], findings: Findings
) -> LoraAdapter | None:
    """The LoRA that ``config.json`` asks for; None where ``findings`` got a problem."""
    before = len(findings.problems)
    rank, dropout = config.integer("lora_rank"), config.number("lora_dropout") or 0.0
    alpha = config.number("lora_alpha")
    if rank < 1:
        findings.problem(config.at("lora_rank"), "bad_value", "lora_rank has to be at least 1.")
    if alpha is not None and alpha <= 0:
        findings.problem(config.at("lora_alpha"), "bad_value", "lora_alpha has to be above 0.")
    if not 0 <= dropout < 1:
        message = "lora_dropout has to be at least 0 and below 1."
        findings.problem(config.at("lora_dropout"), "bad_value", message)
    modules = _lora_modules(config, linears, findings)
    if len(findings.problems) > before:
        return None
    return LoraAdapter(
        rank=rank,
        alpha=rank if alpha is None else alpha,
        dropout=dropout,
        init="gaussian" if config.text("lora_init_type") == "gaussian" else "default",
        modules=modules,
    )


def _lora_modules(
    config: Options, linears: Sequence[LinearShape], findings: Findings
) -> tuple[str, ...]:
    """Paths of the linears to adapt: by preset, or as peft takes names."""
    wanted = _listed(config.raw(_LORA_TARGETS))
    if wanted is None or isinstance(wanted, str):
        preset = NAMED_PRESETS.get(wanted or "attn")
        if preset is not None:
            return tuple(match_preset(preset, linears).targets)
    if not isinstance(wanted, list) or not all(isinstance(name, str) and name for name in wanted):
        message = (
            f"{_LORA_TARGETS} has to be a list of names, or one of {', '.join(NAMED_PRESETS)}."
        )
        findings.problem(config.at(_LORA_TARGETS), "bad_value", message)
        return ()
    if not wanted:
        message = f"{_LORA_TARGETS} names nothing; leave it out to adapt the attention projections."
        findings.problem(config.at(_LORA_TARGETS), "bad_value", message)
        return ()
    if len(wanted) > _MAX_NAMES:
        message = f"{_LORA_TARGETS} has {len(wanted)} names, more than {_MAX_NAMES}."
        findings.problem(config.at(_LORA_TARGETS), "bad_value", message)
        return ()
    endings = {f".{name}": str(name) for name in wanted}
    found: dict[str, list[str]] = {str(name): [] for name in wanted}
    for linear in linears:
        for ending, name in endings.items():
            if f".{linear.path}".endswith(ending):
                found[name].append(linear.path)
    for name in _matching_nothing(found, linears):
        findings.problem(config.at(_LORA_TARGETS), "bad_value", name)
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
    for number, name in enumerate(unmatched):
        if name.rpartition(".")[2] in around:
            hint = " It holds layers and is none itself: name those inside it."
        elif name in NAMED_PRESETS:
            hint = f" For the preset write {name} alone, without a list."
        else:
            hint = nearest(name, linears) if number < _MAX_NEAREST else ""
        yield f"{name} is no linear layer of this base model.{hint}"
