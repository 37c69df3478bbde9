"""Which layers an adapter gets, as in lycoris; shapes are those of diffusers."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lycoris.functional.general import factorization as lycoris_factorization
from torch import nn

from tests.support.lycoris_oracle import made_by_lycoris, meta_model, shapes_of
from tests.unit.config_examples import NAMED_PRESET, TINY_CONFIG, TRUE_CONFIG, import_small
from trainer_core.config.plan import LokrAdapter
from trainer_core.config.plan.problems import PlanError
from trainer_core.config.plan.shapes import (
    LinearShape,
    factorization,
    hidream_linears,
    lokr_parameters,
    lokr_shapes,
)
from trainer_core.config.simpletuner.lokr import lokr_of
from trainer_core.config.simpletuner.reading import Findings

LINEARS = hidream_linears(TINY_CONFIG)


@pytest.mark.parametrize(
    "config", [TRUE_CONFIG, TINY_CONFIG, {**TINY_CONFIG, "num_routed_experts": 0}]
)
def test_the_table_is_the_model(config: dict[str, Any]) -> None:
    modules = dict(meta_model(config).named_modules())

    expected = []
    for path, module in modules.items():
        if isinstance(module, nn.Linear):
            parts = path.split(".")
            around = (modules[".".join(parts[:depth])] for depth in range(len(parts)))
            expected.append(
                LinearShape(
                    path=path,
                    ancestors=tuple(type(m).__name__ for m in around),
                    in_features=module.in_features,
                    out_features=module.out_features,
                    bias=module.bias is not None,
                )
            )

    linears = hidream_linears(config)

    assert list(linears) == expected
    walked = [each for linear in linears for each in (*linear.walked, (linear.path, "Linear"))]
    assert walked == [(path, type(module).__name__) for path, module in modules.items()]


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(-1, 300))
def test_dimensions_split_as_in_lycoris(dimension: int, factor: int) -> None:
    assert factorization(dimension, factor) == lycoris_factorization(dimension, factor)


PRESETS: Sequence[dict[str, Any]] = (
    {"target_module": ["HiDreamAttention"], "module_algo_map": {"HiDreamAttention": {"factor": 4}}},
    NAMED_PRESET,
    {"target_module": ["HiDreamAttention", "HiDreamImageFeedForwardSwiGLU"]},
    {"target_module": ["HiDreamBlock"], "module_algo_map": {"HiDreamAttention": {"factor": 2}}},
    {"target_module": ["MOEFeedForwardSwiGLU"], "exclude_name": [r".*experts\.2"]},
    {"target_module": ["Linear"], "exclude_name": ["*caption*", "*.w2"], "use_fnmatch": True},
    {"target_name": ["x_embedder.proj", "single_.*adaLN_modulation.1$"]},
    {"name_algo_map": {".*to_q": {"factor": 2}, ".*to_.*": {"factor": 8}}},
    {"target_module": ["HiDreamAttention"], "name_algo_map": {".*attn1$": {"factor": 2}},
     "target_name": ["final_layer.linear"]},
)  # fmt: skip


def imported(lycoris: dict[str, Any]) -> LokrAdapter:
    adapter = import_small(lycoris=lycoris).plan.identity.adapter
    assert isinstance(adapter, LokrAdapter)
    return adapter


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scalar", [True, False])
def test_presets_resolve_as_in_lycoris(preset: dict[str, Any], scalar: bool) -> None:
    lycoris = {"factor": 8, "full_matrix": True, "use_scalar": scalar, "apply_preset": preset}

    adapter = imported(lycoris)

    made = made_by_lycoris(meta_model(TINY_CONFIG), lycoris)
    names = {f"lycoris_{m.path.replace('.', '_')}" for m in adapter.modules}
    assert names == shapes_of(made).keys()
    assert lokr_parameters(adapter, hidream_linears(TINY_CONFIG)) == sum(
        parameter.numel() for lora in made.loras for parameter in lora.parameters()
    )


def test_rank_decides_what_is_decomposed() -> None:
    """Below half of the longer side of w2, which factor 4 makes 16 wide here."""
    lycoris = {"factor": 4, "full_matrix": False, "use_scalar": True}
    linear = next(line for line in LINEARS if line.path.endswith("attn1.to_q"))

    def tensors(**changes: Any) -> set[str]:
        module = imported({**lycoris, **changes}).modules[0]
        return set(lokr_shapes(module, linear.in_features, linear.out_features))

    assert tensors(linear_dim=8) == {"w1", "w2", "scalar"}
    assert tensors(linear_dim=7) == {"w1", "w2_a", "w2_b", "scalar"}
    assert tensors(linear_dim=2, decompose_both=True) == {"w1", "w2_a", "w2_b", "scalar"}
    assert tensors(linear_dim=1, decompose_both=True) == {"w1_a", "w1_b", "w2_a", "w2_b", "scalar"}
    assert tensors(linear_dim=1, decompose_both=True, full_matrix=True) == {"w1", "w2", "scalar"}


def test_overrides_hold_for_their_modules_only() -> None:
    adapter = imported(
        {
            "full_matrix": True,
            "factor": 4,
            "linear_alpha": 3,
            "apply_preset": {
                "use_fnmatch": True,
                "name_algo_map": {
                    "*.to_q": {
                        "algo": "lokr", "dim": 2, "alpha": "0.5", "full_matrix": "false",
                        "decompose_both": True, "use_scalar": "true", "factor": "-1",
                    },
                    "*.to_k": {"dim": 5, "alpha": 0},
                },
            },
        }
    )  # fmt: skip

    by_name = {module.path.rpartition(".")[2]: module for module in adapter.modules}
    to_q, to_k = by_name["to_q"], by_name["to_k"]
    assert (to_q.dim, to_q.alpha, to_q.factor) == (2, 0.5, -1)
    assert (to_q.full_matrix, to_q.decompose_both, to_q.use_scalar) == (False, True, True)
    assert (to_k.dim, to_k.alpha, to_k.factor) == (5, 3.0, 4)  # LyCORIS takes 0 as not given
    assert (to_k.full_matrix, to_k.decompose_both, to_k.use_scalar) == (True, False, False)


def test_alpha_zero_is_the_rank() -> None:
    adapter = imported({"full_matrix": False, "linear_dim": 3, "linear_alpha": 0})

    assert {module.alpha for module in adapter.modules} == {3.0}


def test_init_lokr_norm_wants_full_matrices() -> None:
    config = {"init_lokr_norm": 1e-3}
    small = {"full_matrix": False, "linear_dim": 1}

    with pytest.raises(PlanError) as caught:
        import_small(config, lycoris=small)

    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/config/init_lokr_norm", "conflict")
    assert "attn1.to_q" in problem.message
    assert import_small(config, lycoris={"full_matrix": True}).plan.identity.adapter is not None


def test_classes_of_simpletuner_are_those_of_diffusers() -> None:
    theirs = imported({"apply_preset": {"target_module": ["Attention", "FeedForward"]}})
    ours = imported(
        {"apply_preset": {"target_module": ["HiDreamAttention", "HiDreamImageFeedForwardSwiGLU"]}}
    )

    assert theirs.modules == ours.modules


def said(lycoris: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        import_small(lycoris=lycoris)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


def test_floats_stay_floats() -> None:
    adapter = imported({"multiplier": 0.5, "linear_alpha": "0.25"})

    assert (adapter.multiplier, adapter.linear_alpha) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("lycoris", "pointer", "code"),
    [
        ({"algo": "loha"}, "/lycoris_config/algo", "not_implemented"),
        ({"algos": "lokr"}, "/lycoris_config/algos", "unknown_option"),
        ({"factor": 0}, "/lycoris_config/factor", "bad_value"),
        ({"full_matrix": False}, "/lycoris_config/linear_dim", "missing"),
        ({"algo": "diag-oft"}, "/lycoris_config/algo", "not_implemented"),
        ({"dora_wd": True}, "/lycoris_config/dora_wd", "refused"),
        ({"dora_wd": "true"}, "/lycoris_config/dora_wd", "refused"),
        ({"apply_preset": {"module_algo_map": {"Attention": {"weight_decompose": True}}}},
         "/lycoris_config/apply_preset/module_algo_map/Attention/weight_decompose", "refused"),
        ({"apply_preset": {"name_algo_map": {".*to_q": {"algo": "loha"}}}},
         "/lycoris_config/apply_preset/name_algo_map/.*to_q/algo", "not_implemented"),
        ({"preset": "attn"}, "/lycoris_config/preset", "conflict"),
        ({"preset": "attn-only"}, "/lycoris_config/preset", "not_implemented"),
        ({"preset": "atn"}, "/lycoris_config/preset", "bad_value"),
        ({"apply_preset": "atn"}, "/lycoris_config/apply_preset", "bad_value"),
        ({"apply_preset": {"module_algo_map": {"Attention": {}, "HiDreamAttention": {}}}},
         "/lycoris_config/apply_preset/module_algo_map", "conflict"),
        ({"apply_preset": {"target_name": [".*norm.*"]}},
         "/lycoris_config/apply_preset/target_name/0", "bad_value"),
        ({"apply_preset": []}, "/lycoris_config/apply_preset", "bad_value"),
        ({"apply_preset": {"target_module": []}}, "/lycoris_config/apply_preset", "no_modules"),
        ({"apply_preset": {"target_module": ["Attention", "Nothing"]}},
         "/lycoris_config/apply_preset/target_module/1", "bad_value"),
        ({"apply_preset": {"module_algo_map": {"No/thing": {}}}},
         "/lycoris_config/apply_preset/module_algo_map/No~1thing", "bad_value"),
        ({"apply_preset": {"name_algo_map": {"*to_q": {"factor": 0}}, "use_fnmatch": True}},
         "/lycoris_config/apply_preset/name_algo_map/*to_q/factor", "bad_value"),
        ({"apply_preset": {"target_name": ["(a)\\1"]}},
         "/lycoris_config/apply_preset/target_name/0", "not_implemented"),
    ],
)  # fmt: skip
def test_a_wrong_adapter_is_named(lycoris: dict[str, Any], pointer: str, code: str) -> None:
    assert (pointer, code) in said(lycoris)


def test_an_unmatched_pattern_in_a_disguise_cannot_stall() -> None:
    """Shell patterns are compiled without backtracking over their stars."""
    pattern = "*a" * 99 + "b"

    assert said({"apply_preset": {"target_name": [pattern], "use_fnmatch": True}})


@pytest.mark.parametrize(
    ("preset", "hint"),
    [
        ({"target_module": ["HiDreamAtention"]}, "HiDreamAttention"),
        ({"target_name": ["double_stream_blocks.*.block.atn1*"], "use_fnmatch": True},
         "double_stream_blocks.*.block.attn1"),
        ({"name_algo_map": {".*to_outt$": {"factor": 4}}}, "to_out"),
    ],
)  # fmt: skip
def test_what_matches_nothing_is_reported_with_the_nearest_name(
    preset: dict[str, Any], hint: str
) -> None:
    with pytest.raises(PlanError) as caught:
        import_small(lycoris={"apply_preset": preset})

    assert hint in caught.value.problems[0].message.partition("Did you mean")[2]


@pytest.mark.parametrize(
    ("preset", "factor", "reported"),
    [
        ("attn", 160, None),
        ("all", 16, None),
        ("all", -1, None),
        ("all", 18, "With factor 16 all three can"),
        ("all", 240, "With factor 239 all three can"),
    ],
)
def test_a_factor_that_lycoris_loader_misreads_is_reported_with_one_that_it_reads(
    preset: str, factor: int, reported: str | None
) -> None:
    findings = Findings()
    lycoris = {"algo": "lokr", "full_matrix": True, "factor": factor, "preset": preset}

    adapter = lokr_of(lycoris, hidream_linears(TRUE_CONFIG), None, findings, "local")

    assert adapter is not None
    found = [n.text for n in findings.notices if "lycoris-lora cannot load" in n.message]
    assert len(found) == (reported is not None)
    assert all(
        reported is not None and f"factor: {factor}:" in each and reported in each for each in found
    )
