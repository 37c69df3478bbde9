"""The LyCORIS config: a LoKr adapter, resolved to the linear layers of one base model."""

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import AdaptedModule, LokrAdapter
from trainer_core.config.plan.shapes import LinearShape, lokr_shapes, lycoris_loads
from trainer_core.config.simpletuner.patterns import UnsupportedPatternError
from trainer_core.config.simpletuner.presets import (
    DORA,
    ReadPreset,
    add_algo,
    add_factor,
    check_factor,
    read_preset,
)
from trainer_core.config.simpletuner.reading import Findings, Options, Source, read_options
from trainer_core.config.simpletuner.targets import (
    MAX_NEAREST,
    NAMED_PRESETS,
    Matched,
    Target,
    match_preset,
    nearest,
)
from trainer_core.config.simpletuner.verdicts import Option, Table

LYCORIS: Final = Table()
_POINTER: Final = "/lycoris_config"
_DEFAULT_DIM: Final = 4
"""LyCORIS' own default; used only where an override decomposes a matrix."""

_ALGO: Final = add_algo(LYCORIS)
_MULTIPLIER: Final = LYCORIS.number(
    "multiplier", 1.0, "Strength while training; stays a float.", above=0
)
_DIM: Final[Option[int | None]] = LYCORIS.integer(
    "linear_dim", None, "Rank, where a matrix is not full.", at_least=1
)
_ALPHA: Final = LYCORIS.number(
    "linear_alpha", 1.0, "Scale is alpha / rank where a matrix is decomposed; 0: the rank."
)
_FULL_MATRIX: Final = LYCORIS.flag("full_matrix", False, "Neither matrix is decomposed.")
_DECOMPOSE_BOTH: Final = LYCORIS.flag(
    "decompose_both",
    False,
    "The smaller matrix, too, is decomposed where the rank is below half of it.",
)
_USE_SCALAR: Final = LYCORIS.flag("use_scalar", False, "A learned scalar that starts at 0.")
_FACTOR: Final = add_factor(LYCORIS, -1)
_PRESET: Final = LYCORIS.value(
    "apply_preset", f"Which modules are adapted: an object, or {' or '.join(NAMED_PRESETS)}."
)
_PRESET_NAME: Final[Option[str | None]] = LYCORIS.choice(
    "preset",
    {name: name for name in ("full", *NAMED_PRESETS)},
    None,
    "A name is the same as in apply_preset; full leaves the choice to apply_preset.",
    known=("full-lin", "attn-mlp", "attn-only", "unet-transformer-only", "unet-convblock-only"),
)
LYCORIS.unlike(_MULTIPLIER, "A fraction is kept; SimpleTuner cuts it to a whole number.")
LYCORIS.unlike(_ALPHA, "A fraction is kept; SimpleTuner cuts it to a whole number.")
LYCORIS.unlike(
    _USE_SCALAR, "A resumed run goes on exactly; SimpleTuner's loses the scalar at a checkpoint."
)
LYCORIS.handled("bypass_mode", "The adapter always works on activations.")
LYCORIS.not_built(
    "unbalanced_factorization train_norm",
    "Set it to false.",
    False,
    type_="bool",
)
LYCORIS.refused("dora_wd weight_decompose use_dora", DORA, False)
LYCORIS.no_effect("wd_on_output wd_on_out disable_conv_cp", "It has no effect without dora_wd.")
LYCORIS.not_built("dropout rank_dropout module_dropout", "Set it to 0.", 0)
LYCORIS.no_effect(
    "constraint constrain rescaled tlora_alpha tlora_min_rank train_llm_adapter",
    "It belongs to another algo.",
)
LYCORIS.no_effect("rs_lora", "LyCORIS reads it for kohya's scripts alone.")
LYCORIS.no_effect("warn_on_unmatched", "A name that matches nothing is always an error.")
LYCORIS.no_effect("use_tucker use_cp use_conv_cp", "HiDream has no convolutions.")
LYCORIS.no_effect("conv_dim conv_alpha block_size", "HiDream has no convolutions, LoKr no blocks.")


def lokr_of(
    raw: Mapping[str, JsonValue],
    linears: Sequence[LinearShape],
    init_lokr_norm: float | None,
    findings: Findings,
    source: Source,
    *,
    norm_pointer: str = "/config/init_lokr_norm",
) -> LokrAdapter | None:
    """The adapter that a LyCORIS config describes; None where a problem was found.

    ``norm_pointer``: JSON pointer to ``init_lokr_norm``.
    """
    before = len(findings.problems)
    options = read_options(raw, LYCORIS.rows, _POINTER, findings, source)
    if options.is_missing(_ALGO):
        options.problem(_ALGO, "missing", "algo is missing; this version has lokr.")
    check_factor(options, _FACTOR)
    if not options[_FULL_MATRIX] and options.is_missing(_DIM):
        message = "linear_dim is missing; it may be left out only with full_matrix."
        options.problem(_DIM, "missing", message)
    matched = _match(options, linears)
    if matched is None or len(findings.problems) > before:
        return None
    modules = tuple(_module(path, each, options) for path, each in matched.targets.items())
    if init_lokr_norm is not None:
        _check_full(modules, linears, norm_pointer, findings)
    if len(findings.problems) > before:
        return None
    _tell_lycoris_loads(modules, linears, options)
    return LokrAdapter(
        full_matrix=options[_FULL_MATRIX],
        factor=options[_FACTOR],
        linear_dim=options[_DIM] or _DEFAULT_DIM,
        linear_alpha=options[_ALPHA],
        decompose_both=options[_DECOMPOSE_BOTH],
        multiplier=options[_MULTIPLIER],
        use_scalar=options[_USE_SCALAR],
        init_lokr_norm=init_lokr_norm,
        modules=modules,
    )


def _match(options: Options, linears: Sequence[LinearShape]) -> Matched | None:
    """The layers that the preset names; None where it cannot be read or matched."""
    findings = options.findings
    read = read_preset(options, _PRESET, _PRESET_NAME)
    if read is None:
        return None
    try:
        matched = match_preset(read.preset, linears)
    except UnsupportedPatternError as error:
        message = f"{error}: too complex to match; write it as a shell pattern and set use_fnmatch."
        findings.problem(f"{_POINTER}/apply_preset", "not_implemented", message)
        return None
    _report(matched, read, linears, options)
    return matched


def _module(path: str, target: Target, options: Options) -> AdaptedModule:
    """One linear layer; its own overrides replace the settings of the whole adapter."""
    dim = target.dim or options[_DIM] or _DEFAULT_DIM

    def flag(own: bool | None, option: Option[bool]) -> bool:
        return options[option] if own is None else own

    return AdaptedModule(
        path=path,
        factor=target.factor or options[_FACTOR],
        dim=dim,
        alpha=target.alpha or options[_ALPHA] or dim,  # 0 means none to LyCORIS
        full_matrix=flag(target.full_matrix, _FULL_MATRIX),
        decompose_both=flag(target.decompose_both, _DECOMPOSE_BOTH),
        use_scalar=flag(target.use_scalar, _USE_SCALAR),
    )


def _report(
    matched: Matched,
    read: ReadPreset,
    linears: Sequence[LinearShape],
    options: Options,
) -> None:
    """Report names of the preset that the model does not have."""
    pointer, findings = options.at(_PRESET), options.findings
    if read.preset not in NAMED_PRESETS.values():
        for number, unused in enumerate(matched.unused):
            hint = nearest(unused, linears) if number < MAX_NEAREST else ""
            message = f"{unused} matches nothing in this base model.{hint}"
            findings.problem(read.places.get(unused, pointer), "bad_value", message)
    if not read.is_whole:
        return  # the parts with problems may be the cause of the rest
    for pattern in matched.overtaken:
        options.differs(
            _PRESET,
            f"{pattern} names layers that a class target takes first. As in LyCORIS, "
            "its overrides do not apply to them, but to the next target. Leave the class out, or "
            "name only layers outside of it.",
        )
    if options.is_missing(_PRESET) and options.is_missing(_PRESET_NAME):
        options.differs(
            _PRESET,
            f"is not given: all {len(linears)} linear layers are adapted, with the experts, the "
            'embedders and the output head. "apply_preset": "attn" adapts the attention alone.',
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
    """``init_lokr_norm`` draws w2 itself, so neither matrix may be decomposed."""
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


def _tell_lycoris_loads(
    modules: Sequence[AdaptedModule], linears: Sequence[LinearShape], options: Options
) -> None:
    """Tell each factor whose file lycoris cannot load, and the nearest that it can."""
    by_path = {linear.path: (linear.in_features, linear.out_features) for linear in linears}
    of_factor: dict[int, list[str]] = {}
    for module in modules:
        of_factor.setdefault(module.factor, []).append(module.path)
    for factor, paths in of_factor.items():
        shapes = {by_path[path] for path in paths}
        mismatched = {shape for shape in shapes if not lycoris_loads(factor, *shape)}
        if not mismatched:
            continue
        lost = [path for path in paths if by_path[path] in mismatched]
        candidates = (factor + sign * step for step in range(1, factor) for sign in (-1, 1))
        works = (each for each in candidates if all(lycoris_loads(each, *s) for s in shapes))
        options.differs(
            _FACTOR,
            f"{factor}: lycoris-lora cannot load the trained file, because it guesses "
            f"another factor from the shapes of {len(lost)} of {len(paths)} layers (first: "
            f"{lost[0]}). Reverie and ComfyUI can. With factor {next(works, -1)} all three can.",
        )
