"""Any LyCORIS config gives the same modules, tensors and scales here as in LyCORIS."""

import functools
import re
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from lycoris import LycorisNetwork

from tests.support.lycoris_oracle import (
    made_by_lycoris,
    meta_model,
    presets_put_back,
    shapes_of,
)
from tests.unit.config_examples import TINY_CONFIG, TRUE_CONFIG
from trainer_core.config.plan import LokrAdapter
from trainer_core.config.plan.shapes import (
    LinearShape,
    hidream_linears,
    lokr_parameters,
    lokr_scale,
    lokr_shapes,
)
from trainer_core.config.simpletuner.lokr import lokr_of
from trainer_core.config.simpletuner.patterns import UnsupportedPatternError, matcher
from trainer_core.config.simpletuner.reading import Findings

SHAPES = {"tiny": TINY_CONFIG, "true": TRUE_CONFIG}


@functools.cache
def linears_of(shape: str) -> tuple[LinearShape, ...]:
    return hidream_linears(SHAPES[shape])


@functools.cache
def model_of(shape: str) -> Any:
    return meta_model(SHAPES[shape])


TINY_PATHS = [path for path, _ in model_of("tiny").named_modules() if path]
# Without the model's own class: LyCORIS adapts layers twice, the second time under a broken name,
# where a class inside it has overrides.
CLASSES = sorted({c for line in linears_of("tiny") for c in (*line.ancestors[1:], "Linear")})


def imported(lycoris: dict[str, Any], shape: str = "tiny") -> tuple[LokrAdapter | None, Findings]:
    findings = Findings()
    adapter = lokr_of({"algo": "lokr", **lycoris}, linears_of(shape), None, findings, "local")
    return adapter, findings


def ours(adapter: LokrAdapter, shape: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """As ``shapes_of``, in LyCORIS' names; its scalar has no dimension."""
    by_path = {line.path: line for line in linears_of(shape)}
    made = {}
    for module in adapter.modules:
        line = by_path[module.path]
        shapes = lokr_shapes(module, line.in_features, line.out_features)
        made[f"lycoris_{module.path.replace('.', '_')}"] = {
            "scalar" if name == "scalar" else f"lokr_{name}": () if name == "scalar" else size
            for name, size in shapes.items()
        }
    return made


def as_shell(path: str, cut: int) -> str:
    """A shell pattern with stars for numbers, and one for some parts of the path."""
    parts = ["*" if part.isdecimal() else part for part in path.split(".")]
    return [".".join(parts), "*" + ".".join(parts[cut:]), ".".join(parts[:cut]) + "*"][cut % 3]


def as_expression(path: str, cut: int) -> str:
    """A regular expression that matches the path, of one of several makes."""
    numbers = re.sub(r"(?<=\.)\d+(?=\.)", r"\\d+", path.replace(".", r"\."))
    parts = path.split(".")
    return [
        numbers,
        numbers + "$",
        ".*" + r"\.".join(parts[cut:]),
        "^" + ".".join(parts[:cut]) + ".*",
        r"[^.]+\." + r"\.".join(parts[1:]) if len(parts) > 1 else parts[0],
        re.sub(r"to_\w", "to_(q|k)", numbers),
        "(double|single)_stream_blocks.*" + parts[-1],
    ][cut % 7]


paths = st.sampled_from(TINY_PATHS)
cuts = st.integers(0, 6)
overrides = st.fixed_dictionaries(
    {},
    optional={
        "algo": st.just("lokr"),
        "factor": st.sampled_from([-1, 1, 2, 3, 4, 8, 16, 100]),
        "dim": st.sampled_from([1, 2, 3, 4, 8, 16, 10_000]),
        "alpha": st.sampled_from([0, 0.5, 1, 7]),
        "full_matrix": st.booleans(),
        "decompose_both": st.booleans(),
        "use_scalar": st.booleans(),
    },
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    use_fnmatch = draw(st.booleans())
    made = st.builds(as_shell if use_fnmatch else as_expression, paths, cuts)
    names = st.one_of(paths, made)
    preset = {
        "use_fnmatch": use_fnmatch,
        "target_module": draw(st.lists(st.sampled_from(CLASSES), max_size=3, unique=True)),
        "target_name": draw(st.lists(names, max_size=3, unique=True)),
        "module_algo_map": draw(st.dictionaries(st.sampled_from(CLASSES), overrides, max_size=3)),
        "name_algo_map": draw(st.dictionaries(names, overrides, max_size=3)),
        "exclude_name": draw(st.lists(names, max_size=2, unique=True)),
    }
    return {
        "linear_dim": draw(st.sampled_from([1, 2, 4, 5, 8, 16, 16384])),
        "linear_alpha": draw(st.sampled_from([0, 0.5, 1, 16])),
        "factor": draw(st.sampled_from([-1, 1, 2, 4, 5, 8, 16])),
        "full_matrix": draw(st.booleans()),
        "decompose_both": draw(st.booleans()),
        "use_scalar": draw(st.booleans()),
        "apply_preset": preset,
    }


def check_equal(lycoris: dict[str, Any], shape: str) -> None:
    adapter, findings = imported(lycoris, shape)
    if any("matches nothing" in problem.message for problem in findings.problems):
        reject()  # an error here, and nothing to LyCORIS
    network = made_by_lycoris(model_of(shape), lycoris)

    if adapter is None:
        assert [problem.code for problem in findings.problems] == ["no_modules"]
        assert not network.loras
        return
    assert ours(adapter, shape) == shapes_of(network)
    assert lokr_parameters(adapter, linears_of(shape)) == sum(
        parameter.numel() for lora in network.loras for parameter in lora.parameters()
    )
    by_path = {line.path: line for line in linears_of(shape)}
    scales = {lora.lora_name: lora.scale for lora in network.loras}
    for module in adapter.modules:
        line = by_path[module.path]
        shapes = lokr_shapes(module, line.in_features, line.out_features)
        scale = scales[f"lycoris_{module.path.replace('.', '_')}"]
        assert lokr_scale(module, shapes) == pytest.approx(scale, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(configs())
def test_made_up_configs_give_what_lycoris_makes(lycoris: dict[str, Any]) -> None:
    check_equal(lycoris, "tiny")


@pytest.mark.deep
@settings(max_examples=1500, deadline=None)
@given(configs())
def test_many_configs_give_what_lycoris_makes(lycoris: dict[str, Any]) -> None:
    check_equal(lycoris, "tiny")


@pytest.mark.deep
@settings(max_examples=60, deadline=None)
@given(configs())
def test_configs_on_the_true_shape_give_what_lycoris_makes(lycoris: dict[str, Any]) -> None:
    check_equal(lycoris, "true")


def test_overrides_that_lycoris_forgets_to_put_back_land_where_it_lets_them() -> None:
    """A class takes to_q first; LyCORIS then gives the name's factor to the next attention."""
    lycoris = {
        "factor": 8,
        "full_matrix": True,
        "apply_preset": {
            "target_module": ["HiDreamAttention"],
            "name_algo_map": {r"double_stream_blocks\.0.*to_out_t$": {"factor": 2}},
        },
    }

    adapter, findings = imported(lycoris)

    assert adapter is not None
    assert {m.factor for m in adapter.modules if m.path.startswith("double")} == {8}
    assert {m.factor for m in adapter.modules if m.path.startswith("single_stream_blocks.0")} == {2}
    assert {m.factor for m in adapter.modules if m.path.startswith("single_stream_blocks.1")} == {8}
    assert any("takes first" in warning for warning in [n.text for n in findings.notices])
    check_equal(lycoris, "tiny")


def test_presets_leak_in_lycoris_and_not_here() -> None:
    """LyCORIS keeps presets in its class: what one run set, the next has."""
    first = {"target_module": ["HiDreamAttention"], "name_algo_map": {"final_layer.linear": {}}}
    second = {"target_module": ["HiDreamImageOutEmbed"]}
    clean, _ = imported({"full_matrix": True, "apply_preset": second})
    with presets_put_back():
        LycorisNetwork.apply_preset(first)
        LycorisNetwork.apply_preset(second)
        assert first["name_algo_map"] == LycorisNetwork.NAME_ALGO_MAP

        after, _ = imported({"full_matrix": True, "apply_preset": second})

    assert after == clean
    assert after is not None
    assert [m.path for m in after.modules] == [
        "final_layer.linear",
        "final_layer.adaLN_modulation.1",
    ]


@pytest.mark.parametrize(
    ("name", "modules", "parameters"),
    [
        ("attn", 256, 6_619_392),
        ("attn+shared+ff_t", 448, 15_147_456),
        ("all-but-experts", 552, None),
        ("all", 1128, None),
    ],
)
def test_named_presets_have_the_published_counts(
    name: str, modules: int, parameters: int | None
) -> None:
    options = {"factor": 16, "full_matrix": True, "use_scalar": True}

    by_preset, _ = imported({**options, "preset": name}, "true")
    by_apply_preset, _ = imported({**options, "apply_preset": name}, "true")

    assert by_preset is not None
    assert by_preset == by_apply_preset
    assert len(by_preset.modules) == modules
    if parameters is not None:
        assert lokr_parameters(by_preset, linears_of("true")) == parameters


words = st.sampled_from(
    [*"atq_1", r"\.", ".", ".*", ".+", r"\d", r"\d+", "[^.]+", "to_", "(q|k|to_v)", "(?:1|0)",
     "[a-c]*", "x?", "blocks", "|", "^", "$", r"\w", r"\w+", "(", ")", "(?:", "*", "+", "?"]
)  # fmt: skip
texts = st.one_of(paths, st.text(alphabet="atq_10.blocks", max_size=12))


@settings(max_examples=300, deadline=None)
@given(st.lists(words, min_size=1, max_size=7).map("".join), st.lists(texts, min_size=4))
def test_expressions_match_as_python_has_them(pattern: str, candidates: list[str]) -> None:
    try:
        ours = matcher(pattern, use_fnmatch=False)
    except UnsupportedPatternError:
        reject()

    for text in (*candidates, pattern):
        assert ours(text) == (text == pattern or re.match(pattern, text) is not None), text


@pytest.mark.parametrize(
    "pattern",
    [
        r"double_stream_blocks\.\d+\.block\.attn1\.to_[qkv]$",
        r"(double|single)_stream_blocks\.\d+\.block\.ff_i\.shared_experts\.w[123]",
        r".*\.(to_q|to_k)(_t)?$",
        r"^[^.]+_blocks\.[0-9]+\.block\.(?:attn1|ff_t)\..*",
        "final_layer|x_embedder",
        r".{1,40}attn1",
        "(^single|^double)_stream",
    ],
)  # fmt: skip
def test_expressions_that_people_write_are_taken(pattern: str) -> None:
    test = matcher(pattern, use_fnmatch=False)

    hits = [path for path in TINY_PATHS if test(path)]

    assert hits == [path for path in TINY_PATHS if re.match(pattern, path)]
    assert hits


@pytest.mark.parametrize(
    "pattern",
    [r"(a)\1", "(?=a)", "[[:alpha:]]", "a{,3}", "a++b", "a(b", "a)b", "[", "[z-a]", "$*", "*a"],
)
def test_other_expressions_are_not_taken(pattern: str) -> None:
    with pytest.raises(UnsupportedPatternError):
        matcher(pattern, use_fnmatch=False)


def test_no_pattern_that_is_taken_can_stall() -> None:
    text = "a" * 60
    for pattern in ("(a+)+b", "(a|aa)*b$", ".*a" * 60 + "b", ".+.*" * 40 + "b$", "a?" * 90 + "b"):
        assert not matcher(pattern, use_fnmatch=False)(text)
